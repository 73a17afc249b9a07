//! What others ship: which tensor lies where in which file.

pub mod header;
pub mod index;

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use crate::checkpoint::header::Header;
use crate::dtype::Dtype;
use crate::error::{Error, HeaderFault, IndexFault};
use crate::extent::Extent;

/// A tensor of a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tensor {
    /// Its name.
    pub name: String,
    /// Type of its items.
    pub dtype: Dtype,
    /// Length of each side.
    pub shape: Vec<u64>,
    /// Where it lies; the offset counts from the start of the file.
    pub extent: Extent,
}

/// The tensors of one safetensors file or of an index of several.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    files: Vec<PathBuf>,
    tensors: Vec<Tensor>,
    by_name: HashMap<String, usize>,
    metadata: BTreeMap<String, String>,
}

impl Checkpoint {
    /// Read the headers of a `.safetensors` file, of the files that an index names, or of a
    /// directory with `model.safetensors` or `model.safetensors.index.json`.
    ///
    /// # Errors
    /// When there is none, or a header or the index contradicts itself, the others or the files.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let path = std::path::absolute(path).map_err(|source| Error::open(source, path))?;
        let metadata = path
            .metadata()
            .map_err(|source| Error::open(source, &path))?;
        if metadata.is_dir() {
            let (single, index) = (
                path.join("model.safetensors"),
                path.join("model.safetensors.index.json"),
            );
            if single.exists() {
                Self::single(single)
            } else if index.exists() {
                Self::indexed(&index)
            } else {
                Err(Error::NoCheckpoint { path })
            }
        } else if path.to_string_lossy().ends_with(".index.json") {
            Self::indexed(&path)
        } else {
            Self::single(path)
        }
    }

    fn single(path: PathBuf) -> Result<Self, Error> {
        let header = Header::read(&path)?;
        let mut checkpoint = Self::empty();
        checkpoint.metadata = header.metadata;
        for tensor in header.tensors {
            checkpoint.push(tensor, 0);
        }
        checkpoint.files.push(path);
        Ok(checkpoint)
    }

    /// Read the headers of `files`, all of whose tensors count but those whose name begins with
    /// `filler`.
    ///
    /// # Errors
    /// When a header contradicts itself or another file.
    pub fn of_files(files: Vec<PathBuf>, filler: &str) -> Result<Self, Error> {
        let mut checkpoint = Self::empty();
        for (number, path) in (0_u32..).zip(files) {
            let header = Header::read(&path)?;
            for (key, value) in header.metadata {
                checkpoint.metadata.entry(key).or_insert(value);
            }
            for tensor in header.tensors {
                if tensor.name.starts_with(filler) {
                    continue;
                }
                if checkpoint.by_name.contains_key(&tensor.name) {
                    let fault = HeaderFault::Repeated {
                        tensor: tensor.name,
                    };
                    let offset = tensor.extent.offset;
                    return Err(Error::Header {
                        path,
                        offset,
                        fault,
                    });
                }
                checkpoint.push(tensor, number);
            }
            checkpoint.files.push(path);
        }
        Ok(checkpoint)
    }

    fn indexed(path: &Path) -> Result<Self, Error> {
        let fault = |fault| Error::Index {
            path: path.to_owned(),
            fault,
        };
        let weight_map = index::read(path)?;
        let directory = path.parent().unwrap_or(Path::new(""));
        let mut by_file = BTreeMap::<&str, HashMap<&str, bool>>::new();
        for (tensor, file) in &weight_map {
            by_file.entry(file).or_default().insert(tensor, false);
        }
        let mut checkpoint = Self::empty();
        for (number, (name, mut wanted)) in (0_u32..).zip(by_file) {
            let file = directory.join(name);
            if !file.exists() {
                let tensor = wanted
                    .keys()
                    .min()
                    .map_or_else(String::new, ToString::to_string);
                return Err(fault(IndexFault::MissingFile {
                    tensor,
                    file: name.to_owned(),
                }));
            }
            let header = Header::read(&file)?;
            for (key, value) in header.metadata {
                checkpoint.metadata.entry(key).or_insert(value);
            }
            for tensor in header.tensors {
                // The index says which file a tensor is taken from.
                if let Some(is_found) = wanted.get_mut(tensor.name.as_str()) {
                    *is_found = true;
                    checkpoint.push(tensor, number);
                }
            }
            if let Some(tensor) = wanted
                .iter()
                .filter(|(_, found)| !**found)
                .map(|(k, _)| k)
                .min()
            {
                return Err(fault(IndexFault::MissingTensor {
                    tensor: (*tensor).to_owned(),
                    file: name.to_owned(),
                }));
            }
            checkpoint.files.push(file);
        }
        Ok(checkpoint)
    }

    fn empty() -> Self {
        Self {
            files: Vec::new(),
            tensors: Vec::new(),
            by_name: HashMap::new(),
            metadata: BTreeMap::new(),
        }
    }

    fn push(&mut self, mut tensor: Tensor, file: u32) {
        tensor.extent.file = file;
        self.by_name.insert(tensor.name.clone(), self.tensors.len());
        self.tensors.push(tensor);
    }

    /// The files, absolute; [`Extent::file`] counts them.
    #[must_use]
    pub fn files(&self) -> &[PathBuf] {
        &self.files
    }

    /// The tensors, by file and offset.
    #[must_use]
    pub fn tensors(&self) -> &[Tensor] {
        &self.tensors
    }

    /// The tensor of this name.
    #[must_use]
    pub fn tensor(&self, name: &str) -> Option<&Tensor> {
        self.by_name.get(name).map(|&index| &self.tensors[index])
    }

    /// What the files say beside their tensors; of keys in several files, the first file's.
    #[must_use]
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }
}
