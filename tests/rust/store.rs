//! Stores are whole or absent, and every byte is where the format says.

mod making;

mod checksum;
mod format;
mod manifest;
mod verify;
mod writer;
