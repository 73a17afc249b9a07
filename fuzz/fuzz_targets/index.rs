//! An index that is accepted says what its JSON says, and names no file elsewhere.
#![no_main]

use std::path::{Component, Path};

use libfuzzer_sys::fuzz_target;
use serde_json::Value;

use airllm_rs::checkpoint::index;

fuzz_target!(|json: &[u8]| {
    let Ok(files) = index::parse(json) else {
        return;
    };
    let value: Value = match serde_json::from_slice(json) {
        Ok(value) => value,
        // Of a number that nobody asks for.
        Err(error) if error.to_string().starts_with("number out of range") => return,
        Err(error) => panic!("{error}"),
    };
    let map = value["weight_map"].as_object().expect("it has a map");
    assert_eq!(map.len(), files.len());
    for (tensor, file) in &files {
        assert_eq!(map[tensor].as_str(), Some(file.as_str()));
        let mut components = Path::new(file).components();
        assert!(!file.is_empty() && !file.contains('\0'));
        assert!(components.all(|component| matches!(component, Component::Normal(_))));
    }
});
