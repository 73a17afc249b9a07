//! `*.safetensors.index.json`: which file has which tensor.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::Read as _;
use std::path::{Component, Path};

use serde::Deserialize;
use serde::de::{Deserializer, Error as _, MapAccess, Visitor};

use crate::error::{Error, IndexFault};

/// Longest index that is read.
pub const MAX_INDEX_NBYTES: u64 = 100_000_000;

/// Read an index: tensor → file, relative to the index's directory and within it.
///
/// # Errors
/// `Open` when it cannot be read, `Index` when it is no index or leads elsewhere.
pub fn read(path: &Path) -> Result<BTreeMap<String, String>, Error> {
    let open = |source| Error::open(source, path);
    let file = File::open(path).map_err(open)?;
    let mut json = Vec::new();
    file.take(MAX_INDEX_NBYTES + 1)
        .read_to_end(&mut json)
        .map_err(open)?;
    parse(&json).map_err(|fault| Error::Index {
        path: path.to_owned(),
        fault,
    })
}

/// Parse an index.
///
/// # Errors
/// When it is none, or names a file that is not beside it.
pub fn parse(json: &[u8]) -> Result<BTreeMap<String, String>, IndexFault> {
    let nbytes = json.len() as u64;
    if nbytes > MAX_INDEX_NBYTES {
        return Err(IndexFault::TooLong {
            nbytes,
            limit: MAX_INDEX_NBYTES,
        });
    }
    let not_json = |message| IndexFault::NotJson { message };
    // All of it: the JSON parser does not look into strings that nobody asks for.
    let text = str::from_utf8(json).map_err(|error| not_json(error.to_string()))?;
    // A list of fields would do for the JSON parser, too.
    if !text.trim_start().starts_with('{') {
        return Err(not_json("not an object".to_owned()));
    }
    let index: RawIndex =
        serde_json::from_str(text).map_err(|error| not_json(error.to_string()))?;
    for (tensor, file) in &index.weight_map.0 {
        if !is_beside(file) {
            return Err(IndexFault::Escape {
                tensor: tensor.clone(),
                file: file.clone(),
            });
        }
    }
    Ok(index.weight_map.0)
}

// Directories below are fine; anything that leads up or away is not.
fn is_beside(file: &str) -> bool {
    let mut components = Path::new(file).components().peekable();
    components.peek().is_some()
        && components.all(|component| matches!(component, Component::Normal(_)))
        && !file.contains(['\\', '\0'])
}

#[derive(Debug, Deserialize)]
struct RawIndex {
    weight_map: WeightMap,
}

#[derive(Debug)]
struct WeightMap(BTreeMap<String, String>);

impl<'de> Deserialize<'de> for WeightMap {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct MapVisitor;

        impl<'de> Visitor<'de> for MapVisitor {
            type Value = WeightMap;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an object of tensors and their files")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<WeightMap, A::Error> {
                let mut files = BTreeMap::new();
                while let Some((tensor, file)) = map.next_entry::<String, String>()? {
                    if let Some(other) = files.insert(tensor.clone(), file) {
                        return Err(A::Error::custom(format!(
                            "tensor {tensor:?} is there twice, first in {other:?}"
                        )));
                    }
                }
                Ok(WeightMap(files))
            }
        }

        deserializer.deserialize_map(MapVisitor)
    }
}
