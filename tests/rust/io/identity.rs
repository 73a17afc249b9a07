//! A file that was changed or replaced is noticed.

use std::fs::{self, OpenOptions};

use airllm_rs::error::Error;
use airllm_rs::io::identity::Identity;

use crate::io::place::{content, directory, write};

fn assert_changed(change: impl FnOnce(&std::path::Path)) {
    let directory = directory();
    let paths = write(directory.path(), &[content(1, 100), content(2, 100)]);
    let identity = Identity::of(&paths).unwrap();
    identity.check().unwrap();
    change(&paths[1]);
    match identity.check().unwrap_err() {
        Error::CheckpointChanged { path } => assert_eq!(path, paths[1]),
        other => panic!("{other}"),
    }
}

#[test]
fn a_changed_replaced_shortened_or_missing_file_is_noticed() {
    assert_changed(|path| {
        OpenOptions::new()
            .write(true)
            .open(path)
            .unwrap()
            .set_len(99)
            .unwrap()
    });
    assert_changed(|path| fs::remove_file(path).unwrap());
    assert_changed(|path| {
        let other = path.with_extension("other");
        fs::copy(path, &other).unwrap();
        fs::rename(other, path).unwrap();
    });
    assert_changed(|path| {
        let file = OpenOptions::new().write(true).open(path).unwrap();
        file.set_modified(std::time::UNIX_EPOCH).unwrap();
    });
}

#[test]
fn a_file_that_is_not_there_has_no_identity() {
    let directory = directory();
    let result = Identity::of(&[directory.path().join("absent")]);
    assert!(matches!(result, Err(Error::Open { .. })));
}
