//! The manifest: what a store is made of, written last; a store without one is not there.

use std::collections::HashSet;
use std::fs::File;
use std::io::{ErrorKind, Read as _};
use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::{Error, ManifestFault, StoreError};
use crate::store::checksum;

/// The manifest's name.
pub const NAME: &str = "airllm_rs.json";
/// The name of what says, in the other directories of a striped store, which store they belong to.
pub const STRIPE: &str = "airllm_rs.stripe.json";
/// The version of the format, of files and manifest together.
pub const VERSION: u32 = 1;
/// Longest manifest that is read.
pub const MAX_NBYTES: u64 = 64 << 20;

/// A file of a store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileRecord {
    /// Its name.
    pub name: String,
    /// The layer that it is of.
    pub layer: String,
    /// Index into [`Manifest::directories`].
    #[serde(default)]
    pub directory: usize,
    /// Its size.
    pub nbytes: u64,
    /// CRC32C of each 8 MiB.
    pub crc32c: Vec<u32>,
    /// Tensors that were to be encoded and were not, as they hold what is no number.
    #[serde(default)]
    pub not_finite: Vec<String>,
}

/// What a store says about itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// The version of the format.
    pub format_version: u32,
    /// Names the store; its stripes carry it too.
    pub id: String,
    /// The scheme, none for the source's own dtypes.
    pub scheme: Option<String>,
    /// What it was made of; for people, and for whoever made it.
    pub source: Value,
    /// The directories: the first is the manifest's own and called `.`, others are absolute.
    pub directories: Vec<String>,
    /// What was copied beside the weights.
    #[serde(default)]
    pub companions: Vec<String>,
    /// The files, in the order of use.
    pub files: Vec<FileRecord>,
}

#[derive(Debug, Deserialize)]
struct VersionOnly {
    format_version: u64,
}

#[derive(Debug, Deserialize)]
struct Stripe {
    id: String,
}

impl Manifest {
    /// Read the manifest of a store's directory; none if there is none.
    ///
    /// # Errors
    /// `Open` when it cannot be read, `Manifest` when it is none or leads elsewhere.
    pub fn read(directory: &Path) -> Result<Option<Self>, Error> {
        let path = directory.join(NAME);
        let Some(json) = bytes(&path)? else {
            return Ok(None);
        };
        let parsed = Self::parse(&json);
        parsed.map(Some).map_err(|fault| at(&path, fault))
    }

    /// Parse a manifest.
    ///
    /// # Errors
    /// When anything in it contradicts anything else, or leads elsewhere.
    pub fn parse(json: &[u8]) -> Result<Self, ManifestFault> {
        if json.len() as u64 > MAX_NBYTES {
            return Err(ManifestFault::TooLong { limit: MAX_NBYTES });
        }
        let version: VersionOnly = from_json(json)?;
        if version.format_version != u64::from(VERSION) {
            return Err(ManifestFault::Version {
                found: version.format_version,
                known: VERSION,
            });
        }
        let manifest: Self = from_json(json)?;
        manifest.check()?;
        Ok(manifest)
    }

    fn check(&self) -> Result<(), ManifestFault> {
        if let Some(name) = self.companions.iter().find(|name| !is_name(name)) {
            return Err(ManifestFault::Escape { name: name.clone() });
        }
        let mut seen = HashSet::new();
        for file in &self.files {
            let name = file.name.clone();
            if !is_plain(&name) {
                return Err(ManifestFault::Escape { name });
            }
            let directory = file.directory;
            let is_given = self.directories.get(directory).is_some_and(|path| {
                if directory == 0 {
                    path == "."
                } else {
                    Path::new(path).is_absolute() && !path.contains('\0')
                }
            });
            if !is_given {
                return Err(ManifestFault::Directory { name, directory });
            }
            let (expected, found) = (checksum::chunks(file.nbytes), file.crc32c.len());
            if found as u64 != expected {
                return Err(ManifestFault::Checksums {
                    name,
                    nbytes: file.nbytes,
                    expected,
                    found,
                });
            }
            if !seen.insert((directory, &file.name)) {
                return Err(ManifestFault::Repeated { name });
            }
        }
        Ok(())
    }

    /// The directories, that of the manifest first; each of the others says that it is this store's.
    ///
    /// # Errors
    /// `ForeignStripe` when one does not.
    pub fn directories(&self, own: &Path) -> Result<Vec<PathBuf>, Error> {
        let mut found = vec![own.to_owned()];
        for other in self.directories.iter().skip(1) {
            let path = PathBuf::from(other);
            let stripe = bytes(&path.join(STRIPE)).ok().flatten();
            let stripe = stripe.and_then(|json| from_json::<Stripe>(&json).ok());
            if stripe.is_none_or(|stripe| stripe.id != self.id) {
                return Err(Error::Store(StoreError::ForeignStripe {
                    path,
                    store: own.to_owned(),
                }));
            }
            found.push(path);
        }
        Ok(found)
    }

    /// The paths of the files, each of which has the size that it should have.
    ///
    /// # Errors
    /// `MissingFile` when one is not there, `FileSize` when it is shorter or longer.
    pub fn paths(&self, own: &Path) -> Result<Vec<PathBuf>, Error> {
        let directories = self.directories(own)?;
        let path = |file: &FileRecord| {
            let path = directories
                .get(file.directory)
                .map_or_else(PathBuf::new, |directory| directory.join(&file.name));
            let found = match path.metadata() {
                Err(source) if source.kind() == ErrorKind::NotFound => {
                    return Err(Error::Store(StoreError::MissingFile { path }));
                }
                found => found.map_err(|source| Error::open(source, &path))?,
            };
            if found.len() != file.nbytes {
                return Err(Error::Store(StoreError::FileSize {
                    path,
                    expected: file.nbytes,
                    found: found.len(),
                }));
            }
            Ok(path)
        };
        self.files.iter().map(path).collect()
    }
}

fn bytes(path: &Path) -> Result<Option<Vec<u8>>, Error> {
    let open = |source| Error::open(source, path);
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(open(error)),
    };
    let mut json = Vec::new();
    file.take(MAX_NBYTES + 1)
        .read_to_end(&mut json)
        .map_err(open)?;
    Ok(Some(json))
}

fn from_json<'j, T: Deserialize<'j>>(json: &'j [u8]) -> Result<T, ManifestFault> {
    let not_json = |message| ManifestFault::NotJson { message };
    // A list of fields would do for the JSON parser, too.
    if json.trim_ascii_start().first() != Some(&b'{') {
        return Err(not_json("not an object".to_owned()));
    }
    serde_json::from_slice(json).map_err(|error| not_json(error.to_string()))
}

fn at(path: &Path, fault: ManifestFault) -> Error {
    Error::Store(StoreError::Manifest {
        path: path.to_owned(),
        fault,
    })
}

// Of a file with tensors.
fn is_plain(name: &str) -> bool {
    is_name(name) && name.ends_with(".safetensors") && !name.starts_with('.')
}

// A name and nothing else: no directory.
fn is_name(name: &str) -> bool {
    let mut components = Path::new(name).components();
    let is_one =
        matches!(components.next(), Some(Component::Normal(_))) && components.next().is_none();
    is_one && !name.contains(['/', '\\', '\0'])
}
