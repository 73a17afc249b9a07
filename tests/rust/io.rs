//! Reads arrive whole or as an error that says where, by every engine.

mod bench;
mod engines;
mod fake;
#[cfg(target_os = "linux")]
mod faults;
mod gather;
mod identity;
#[cfg(target_os = "linux")]
mod mounts;
#[cfg(target_os = "linux")]
mod page_cache;
mod place;
mod probe;
#[cfg(target_os = "linux")]
mod registered;
