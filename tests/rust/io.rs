//! Reads arrive whole or as an error that says where, by every engine.

mod bench;
mod engines;
mod fake;
mod gather;
mod identity;
#[cfg(target_os = "linux")]
mod page_cache;
mod place;
mod probe;
