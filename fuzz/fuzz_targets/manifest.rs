//! A manifest that is accepted leads to plain files, has all checksums, and is read back as it is.
#![no_main]

use std::path::{Component, Path};

use libfuzzer_sys::fuzz_target;

use airllm_rs::store::checksum::chunks;
use airllm_rs::store::manifest::Manifest;

fuzz_target!(|json: &[u8]| {
    let Ok(manifest) = Manifest::parse(json) else {
        return;
    };
    let is_plain = |name: &str| {
        let components: Vec<_> = Path::new(name).components().collect();
        matches!(components.as_slice(), [Component::Normal(_)]) && !name.contains(['/', '\\', '\0'])
    };
    for file in &manifest.files {
        assert!(is_plain(&file.name) && file.name.ends_with(".safetensors"));
        assert_eq!(file.crc32c.len() as u64, chunks(file.nbytes));
        let directory = &manifest.directories[file.directory];
        assert!((file.directory == 0 && directory == ".") || Path::new(directory).is_absolute());
    }
    assert!(manifest.companions.iter().all(|name| is_plain(name)));
    let again = serde_json::to_vec(&manifest).expect("it is JSON");
    // The source may have numbers that JSON does not keep to the last bit.
    let again = Manifest::parse(&again).expect("it was accepted");
    assert_eq!((again.id, again.files), (manifest.id, manifest.files));
});
