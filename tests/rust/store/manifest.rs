//! A manifest that is accepted leads to plain files in its own directories, or it is refused.

use std::fs;
use std::path::{Component, Path};

use proptest::prelude::*;
use serde_json::{Value, json};
use tempfile::tempdir;

use airllm_rs::error::{Error, ManifestFault, StoreError};
use airllm_rs::store::checksum::chunks;
use airllm_rs::store::manifest::{Manifest, NAME, STRIPE};

fn manifest(files: Value) -> Value {
    json!({
        "format_version": 1, "id": "12", "scheme": null, "source": {}, "directories": ["."],
        "files": files,
    })
}

fn file(name: &str) -> Value {
    json!({"name": name, "layer": "layers.0", "nbytes": 5, "crc32c": [7]})
}

fn parse(value: &Value) -> Result<Manifest, ManifestFault> {
    Manifest::parse(value.to_string().as_bytes())
}

// What holds for every manifest that is accepted; the fuzz target asserts the same.
fn check(manifest: &Manifest) {
    for file in &manifest.files {
        let components: Vec<_> = Path::new(&file.name).components().collect();
        assert!(matches!(components.as_slice(), [Component::Normal(_)]));
        assert!(file.name.ends_with(".safetensors") && !file.name.contains(['/', '\\', '\0']));
        assert_eq!(file.crc32c.len() as u64, chunks(file.nbytes));
        let directory = &manifest.directories[file.directory];
        assert!((file.directory == 0 && directory == ".") || Path::new(directory).is_absolute());
    }
    let json = serde_json::to_vec(manifest).unwrap();
    // The source may have numbers that JSON does not keep to the last bit.
    let again = Manifest::parse(&json).unwrap();
    assert_eq!((&again.id, &again.files), (&manifest.id, &manifest.files));
}

#[test]
fn a_manifest_is_read_back() {
    let found = parse(&manifest(json!([
        file("a.safetensors"),
        file("b.safetensors")
    ])))
    .unwrap();
    check(&found);
    assert_eq!(found.files[1].name, "b.safetensors");
}

#[test]
fn names_that_lead_elsewhere_are_refused() {
    for name in [
        "../a.safetensors",
        "/a.safetensors",
        "b/a.safetensors",
        "a.safetensors/",
        "./a.safetensors",
        "b\\a.safetensors",
        "a\0.safetensors",
        ".safetensors",
        "..",
        "a.bin",
        "",
    ] {
        let fault = parse(&manifest(json!([file(name)]))).unwrap_err();
        assert_eq!(
            fault,
            ManifestFault::Escape {
                name: name.to_owned()
            }
        );
    }
}

#[test]
fn companions_that_lie_elsewhere_are_refused() {
    for name in ["../config.json", "/etc/passwd", "a/b", "", ".."] {
        let mut value = manifest(json!([]));
        value["companions"] = json!([name]);
        assert!(
            matches!(parse(&value), Err(ManifestFault::Escape { .. })),
            "{name}"
        );
    }
}

#[test]
fn contradictions_are_named() {
    let twice = manifest(json!([file("a.safetensors"), file("a.safetensors")]));
    assert!(matches!(parse(&twice), Err(ManifestFault::Repeated { .. })));
    let mut sums = file("a.safetensors");
    sums["crc32c"] = json!([1, 2]);
    let fault = parse(&manifest(json!([sums]))).unwrap_err();
    assert_eq!(
        fault.to_string(),
        "the manifest has 2 checksums of \"a.safetensors\", whose 5 bytes have 1"
    );
    for directories in [json!([]), json!(["/tmp"]), json!([".", "relative"])] {
        let mut elsewhere = file("a.safetensors");
        elsewhere["directory"] = json!(directories.as_array().unwrap().len().saturating_sub(1));
        let mut value = manifest(json!([elsewhere]));
        value["directories"] = directories;
        assert!(matches!(
            parse(&value),
            Err(ManifestFault::Directory { .. })
        ));
    }
}

#[test]
fn another_format_version_is_named_whatever_else_has_changed() {
    let text = br#"{"format_version": 2, "shards": "elsewhere"}"#;
    let fault = Manifest::parse(text).unwrap_err();
    assert_eq!(fault, ManifestFault::Version { found: 2, known: 1 });
}

#[test]
fn a_stripe_of_another_store_is_refused() {
    let (own, other) = (tempdir().unwrap(), tempdir().unwrap());
    let mut value = manifest(json!([]));
    value["directories"] = json!([".", other.path()]);
    fs::write(own.path().join(NAME), value.to_string()).unwrap();
    let read = || Manifest::read(own.path()).unwrap().unwrap();
    let refused = |found: Result<_, Error>| {
        matches!(found, Err(Error::Store(StoreError::ForeignStripe { .. })))
    };
    assert!(refused(read().directories(own.path())));
    fs::write(other.path().join(STRIPE), r#"{"id": "13"}"#).unwrap();
    assert!(refused(read().directories(own.path())));
    fs::write(other.path().join(STRIPE), r#"{"id": "12"}"#).unwrap();
    assert_eq!(read().directories(own.path()).unwrap()[1], other.path());
}

proptest! {
    #[test]
    fn any_name_is_plain_or_refused(name in "[a./\\\\\0-]{0,6}(\\.safetensors)?") {
        if let Ok(found) = parse(&manifest(json!([file(&name)]))) {
            check(&found);
        }
    }

    #[test]
    fn bytes_that_are_no_manifest_are_refused(
        text in prop::collection::vec(any::<u8>(), 0..40),
        at in 0_usize..100,
    ) {
        let mut json = manifest(json!([file("a.safetensors")])).to_string().into_bytes();
        let end = json.len().min(at + text.len());
        json.splice(at.min(end)..end, text);
        if let Ok(found) = Manifest::parse(&json) {
            check(&found);
        }
    }
}
