//! Reads arrive whole or as an error that says where, by every engine.

mod engines;
mod fake;
mod gather;
mod identity;
mod place;
mod probe;
