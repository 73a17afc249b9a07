//! The header of a safetensors file, parsed as if somebody hostile had written it.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use serde::Deserialize;
use serde::de::{Deserializer, Error as _, MapAccess, Visitor};

use crate::checkpoint::Tensor;
use crate::dtype::Dtype;
use crate::error::{Error, HeaderFault};
use crate::extent::Extent;

/// Longest header that is read, the limit of the format's own library.
pub const MAX_HEADER_NBYTES: u64 = 100_000_000;

// The header's length, before the header.
const LENGTH_NBYTES: u64 = 8;

/// What a safetensors file says about itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// The tensors, by offset; of those without bytes at one place, as the header has them. Their
    /// extents count from the start of the file and name file 0.
    pub tensors: Vec<Tensor>,
    /// `__metadata__`.
    pub metadata: BTreeMap<String, String>,
}

/// A contradiction, and where in the file it lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderError {
    /// Where, from the start of the file.
    pub offset: u64,
    /// What.
    pub fault: HeaderFault,
}

impl Header {
    /// Read and check the header of a file.
    ///
    /// # Errors
    /// `Open` when it cannot be read, `Header` when it is not what it claims to be.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let open = |source| Error::open(source, path);
        // Before opening: a pipe would wait for its other end.
        if !path.metadata().map_err(open)?.is_file() {
            return Err(open(io::Error::new(
                io::ErrorKind::InvalidInput,
                "not a regular file",
            )));
        }
        let mut file = File::open(path).map_err(open)?;
        // The kernel's own readahead would leave weights behind the header in the page cache.
        #[cfg(target_os = "linux")]
        let _ = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::Random);
        let file_nbytes = file.metadata().map_err(open)?.len();
        let mut head = Vec::new();
        (&mut file)
            .take(LENGTH_NBYTES)
            .read_to_end(&mut head)
            .map_err(open)?;
        let header = match json_nbytes(&head, file_nbytes) {
            Ok(json_nbytes) => {
                let mut json = Vec::new();
                // A file that was cut off meanwhile shows as the early end of the JSON.
                (&mut file)
                    .take(json_nbytes)
                    .read_to_end(&mut json)
                    .map_err(open)?;
                Self::of_json(&json, file_nbytes)
            }
            Err(error) => Err(error),
        };
        header.map_err(|HeaderError { offset, fault }| Error::Header {
            path: path.to_owned(),
            offset,
            fault,
        })
    }

    /// Parse a header from the `start` of a file of `file_nbytes`; `start` holds all of the header.
    ///
    /// # Errors
    /// When anything in it contradicts anything else.
    pub fn parse(start: &[u8], file_nbytes: u64) -> Result<Self, HeaderError> {
        let json_nbytes = json_nbytes(start, file_nbytes)?;
        let json = usize::try_from(json_nbytes)
            .ok()
            .and_then(|nbytes| start.get(LENGTH_NBYTES as usize..)?.get(..nbytes));
        let found = (start.len() as u64).saturating_sub(LENGTH_NBYTES);
        let json = json.ok_or(HeaderError {
            offset: 0,
            fault: HeaderFault::Truncated {
                nbytes: json_nbytes,
                found,
            },
        })?;
        Self::of_json(json, file_nbytes)
    }

    fn of_json(json: &[u8], file_nbytes: u64) -> Result<Self, HeaderError> {
        // All of it: the JSON parser does not look into strings that nobody asks for.
        let text = str::from_utf8(json).map_err(|error| HeaderError {
            offset: LENGTH_NBYTES + error.valid_up_to() as u64,
            fault: HeaderFault::NotJson {
                message: error.to_string(),
            },
        })?;
        let raw: RawHeader = serde_json::from_str(text).map_err(|error| HeaderError {
            offset: LENGTH_NBYTES + json_offset(json, error.line(), error.column()),
            fault: HeaderFault::NotJson {
                message: error.to_string(),
            },
        })?;
        let data_start = LENGTH_NBYTES + json.len() as u64;
        let mut tensors = Vec::with_capacity(raw.tensors.len());
        for (name, entry) in raw.tensors {
            tensors.push(checked(name, entry, data_start, file_nbytes)?);
        }
        tensors.sort_by_key(|tensor| (tensor.extent.offset, tensor.extent.nbytes));
        let end = tensors.iter().try_fold(data_start, |end, tensor| {
            let begin = tensor.extent.offset;
            let (name, begin_in_data, end_in_data) =
                (|| tensor.name.clone(), begin - data_start, end - data_start);
            let fault = match begin.cmp(&end) {
                std::cmp::Ordering::Equal => return Ok(begin + tensor.extent.nbytes),
                std::cmp::Ordering::Less => HeaderFault::Overlap {
                    tensor: name(),
                    begin: begin_in_data,
                    end: end_in_data,
                },
                std::cmp::Ordering::Greater => HeaderFault::Hole {
                    tensor: name(),
                    begin: begin_in_data,
                    end: end_in_data,
                },
            };
            Err(HeaderError {
                offset: begin,
                fault,
            })
        })?;
        if end != file_nbytes {
            let fault = HeaderFault::Size {
                expected: end,
                found: file_nbytes,
            };
            return Err(HeaderError {
                offset: end.min(file_nbytes),
                fault,
            });
        }
        Ok(Self {
            tensors,
            metadata: raw.metadata,
        })
    }
}

// Length of the JSON, from the first bytes of the file.
fn json_nbytes(start: &[u8], file_nbytes: u64) -> Result<u64, HeaderError> {
    let fault = |fault| HeaderError { offset: 0, fault };
    let length = start.first_chunk().filter(|_| file_nbytes >= LENGTH_NBYTES);
    let length = length.ok_or_else(|| fault(HeaderFault::NoLength { found: file_nbytes }))?;
    let nbytes = u64::from_le_bytes(*length);
    if nbytes > MAX_HEADER_NBYTES {
        return Err(fault(HeaderFault::TooLong {
            nbytes,
            limit: MAX_HEADER_NBYTES,
        }));
    }
    let found = file_nbytes - LENGTH_NBYTES;
    if nbytes > found {
        return Err(fault(HeaderFault::Truncated { nbytes, found }));
    }
    Ok(nbytes)
}

// One tensor for itself; offsets count from the start of the file afterwards.
fn checked(
    name: String,
    entry: RawTensor,
    data_start: u64,
    file_nbytes: u64,
) -> Result<Tensor, HeaderError> {
    let (begin, end) = entry.data_offsets;
    let fault = |fault| HeaderError {
        offset: data_start.saturating_add(begin),
        fault,
    };
    let Ok(dtype) = Dtype::from_code(&entry.dtype) else {
        return Err(fault(HeaderFault::Dtype {
            tensor: name,
            code: entry.dtype,
        }));
    };
    let Ok(expected) = dtype.nbytes(&entry.shape) else {
        let bits = dtype.bits();
        return Err(fault(HeaderFault::Shape {
            tensor: name,
            shape: entry.shape,
            bits,
        }));
    };
    let Some(found) = end.checked_sub(begin) else {
        return Err(fault(HeaderFault::Backwards {
            tensor: name,
            begin,
            end,
        }));
    };
    if end.checked_add(data_start).is_none() {
        return Err(fault(HeaderFault::Size {
            expected: end,
            found: file_nbytes,
        }));
    }
    if found != expected {
        return Err(fault(HeaderFault::Length {
            tensor: name,
            expected,
            found,
        }));
    }
    let extent = Extent {
        file: 0,
        offset: data_start + begin,
        nbytes: found,
    };
    Ok(Tensor {
        name,
        dtype,
        shape: entry.shape,
        extent,
    })
}

// Where a line and column of the JSON parser lie, in bytes.
fn json_offset(json: &[u8], line: usize, column: usize) -> u64 {
    let line_start = json
        .iter()
        .enumerate()
        .filter(|&(_, &byte)| byte == b'\n')
        .map(|(at, _)| at + 1)
        .nth(line.wrapping_sub(2))
        .unwrap_or(0);
    (line_start + column.saturating_sub(1)).min(json.len()) as u64
}

#[derive(Debug, Deserialize)]
struct RawTensor {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: (u64, u64),
}

#[derive(Debug, Default)]
struct RawHeader {
    tensors: Vec<(String, RawTensor)>,
    metadata: BTreeMap<String, String>,
}

impl<'de> Deserialize<'de> for RawHeader {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct HeaderVisitor;

        impl<'de> Visitor<'de> for HeaderVisitor {
            type Value = RawHeader;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an object of tensors")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawHeader, A::Error> {
                let mut header = RawHeader::default();
                let mut seen = HashSet::new();
                while let Some(name) = map.next_key::<String>()? {
                    if !seen.insert(name.clone()) {
                        return Err(A::Error::custom(format!("{name:?} is there twice")));
                    }
                    if name == "__metadata__" {
                        header.metadata = map
                            .next_value::<Option<BTreeMap<_, _>>>()?
                            .unwrap_or_default();
                    } else {
                        header.tensors.push((name, map.next_value()?));
                    }
                }
                Ok(header)
            }
        }

        deserializer.deserialize_map(HeaderVisitor)
    }
}
