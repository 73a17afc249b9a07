//! A byte that was changed is found, and named.

use std::fs;

use airllm_rs::error::{Error, StoreError};
use airllm_rs::store::progress::Progress;
use airllm_rs::store::verify::verify;
use airllm_rs::store::{manifest::Manifest, open};

use crate::store::making::{Made, three_layers};

fn verified(made: &Made) -> Result<(), Error> {
    let manifest = Manifest::read(&made.store())?.unwrap();
    verify(&made.store(), &manifest, 2, &Progress::default())
}

#[test]
fn every_byte_counts() {
    let made = Made::new();
    let records = made.make(three_layers(None));
    made.commit(records);
    verified(&made).unwrap();
    let path = made.store().join("layers.1.safetensors");
    let good = fs::read(&path).unwrap();
    // In the header's length, its padding, a tensor, and the last byte.
    for at in [0, 4095, 5000, good.len() - 1] {
        let mut bad = good.clone();
        bad[at] ^= 0x10;
        fs::write(&path, &bad).unwrap();
        let error = verified(&made).unwrap_err();
        let Error::Store(StoreError::CorruptChunk {
            chunk: 0, tensors, ..
        }) = &error
        else {
            panic!("{error}");
        };
        let names = ["layers.1.q.weight", "a file whose header"];
        assert!(names.iter().any(|name| tensors.contains(name)), "{tensors}");
        assert!(error.to_string().contains("layers.1.safetensors"));
    }
    fs::write(&path, &good).unwrap();
    verified(&made).unwrap();
}

#[test]
fn a_file_that_is_shorter_or_gone_is_named_when_the_store_is_opened() {
    let made = Made::new();
    let records = made.make(three_layers(None));
    assert!(open(&made.store()).unwrap().is_none());
    made.commit(records);
    assert_eq!(open(&made.store()).unwrap().unwrap().tensors().len(), 9);
    let path = made.store().join("layers.2.safetensors");
    fs::write(&path, b"short").unwrap();
    let error = open(&made.store()).unwrap_err();
    assert!(matches!(
        error,
        Error::Store(StoreError::FileSize { found: 5, .. })
    ));
    fs::remove_file(&path).unwrap();
    let error = open(&made.store()).unwrap_err();
    assert!(matches!(
        error,
        Error::Store(StoreError::MissingFile { .. })
    ));
}
