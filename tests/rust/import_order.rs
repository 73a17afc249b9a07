//! Each module of the crate uses only those before it, one name at a time.

use std::fs;
use std::path::{Path, PathBuf};

const ORDER: [&str; 11] = [
    "error",
    "dtype",
    "sync",
    "arena",
    "extent",
    "checkpoint",
    "quant",
    "io",
    "store",
    "readahead",
    "python",
];

fn sources(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn modules_use_only_those_before_them() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("rust");
    let mut paths = Vec::new();
    sources(&root, &mut paths);
    let mut wrong = Vec::new();
    for path in paths {
        let relative = path.strip_prefix(&root).unwrap().to_path_buf();
        let module = relative
            .iter()
            .next()
            .unwrap()
            .to_str()
            .unwrap()
            .trim_end_matches(".rs");
        if module == "lib" {
            continue;
        }
        let own = ORDER.iter().position(|&name| name == module);
        let own = own.unwrap_or_else(|| panic!("{module} has no place in the order"));
        let text = fs::read_to_string(&path).unwrap();
        for used in text.split("crate::").skip(1) {
            let name: String = used
                .chars()
                .take_while(|&c| c.is_alphanumeric() || c == '_')
                .collect();
            if !ORDER[..=own].contains(&name.as_str()) {
                let line: String = used.chars().take_while(|&c| c != '\n').collect();
                wrong.push(format!("{} uses crate::{line}", relative.display()));
            }
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
}
