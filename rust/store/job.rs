//! What a file of a store is made of: tensors copied or encoded, cut into tasks of bounded size.

use std::collections::{BTreeMap, HashSet};
use std::ops::Range;

use serde_json::json;

use crate::dtype::Dtype;
use crate::error::{Error, StoreError};
use crate::extent::Extent;
use crate::quant::float::Float;
use crate::quant::layout::NF4;
use crate::quant::scheme::Scheme;
use crate::store::format::Placed;

/// A tensor of a store, and what it is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorJob {
    /// Its name; that of the matrix if it is encoded.
    pub name: String,
    /// Type of the source's items.
    pub dtype: Dtype,
    /// Length of each side.
    pub shape: Vec<u64>,
    /// The source's bytes.
    pub source: Extent,
    /// What it is encoded with; none to copy the bytes.
    pub scheme: Option<Scheme>,
    /// Whether it begins what is read at once.
    pub starts_unit: bool,
}

/// A file of a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileJob {
    /// Its name.
    pub name: String,
    /// The layer it is of.
    pub layer: String,
    /// The directory, of those that are written to.
    pub directory: usize,
    /// What lies in it, in this order.
    pub tensors: Vec<TensorJob>,
    /// What its header says beside the tensors.
    pub metadata: BTreeMap<String, String>,
}

/// How an encoded matrix lies in its file: indices into the placed tensors.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Encoding {
    pub(crate) scheme: Scheme,
    pub(crate) float: Float,
    pub(crate) cols: usize,
    // Codes, scales, and the number of each row where there is one.
    pub(crate) q: usize,
    pub(crate) scale: usize,
    pub(crate) row: Option<usize>,
}

/// A piece of work on one tensor, of bounded size.
#[derive(Clone, Debug)]
pub(crate) enum Task {
    /// Bytes of the source, from the start of the tensor.
    Copy {
        tensor: usize,
        placed: usize,
        bytes: Range<u64>,
    },
    /// Rows of a matrix.
    Encode {
        tensor: usize,
        encoding: Encoding,
        rows: Range<u64>,
    },
}

impl Task {
    pub(crate) fn tensor(&self) -> usize {
        match self {
            Self::Copy { tensor, .. } | Self::Encode { tensor, .. } => *tensor,
        }
    }
}

/// A file of a store, planned: what lies in it, and the work that makes it.
#[derive(Debug)]
pub(crate) struct Planned {
    pub(crate) placed: Vec<Placed>,
    /// Contents that are known beforehand: index into the placed tensors, bytes.
    pub(crate) fixed: Vec<(usize, Vec<u8>)>,
    pub(crate) tasks: Vec<Task>,
}

impl FileJob {
    /// Plan the file, with the tensors in `not_finite` copied, in tasks of up to `block_nbytes`.
    pub(crate) fn plan(
        &self,
        not_finite: &HashSet<String>,
        block_nbytes: u64,
    ) -> Result<Planned, Error> {
        let mut planned = Planned {
            placed: Vec::new(),
            fixed: Vec::new(),
            tasks: Vec::new(),
        };
        for (index, tensor) in self.tensors.iter().enumerate() {
            let expected = tensor.dtype.nbytes(&tensor.shape)?;
            if tensor.source.nbytes != expected {
                let reason = format!(
                    "the source has {} bytes, its dtype and shape make {expected}",
                    tensor.source.nbytes
                );
                return Err(tensor.fault(reason));
            }
            tensor.source.end()?;
            match tensor.scheme.filter(|_| !not_finite.contains(&tensor.name)) {
                Some(scheme) => tensor.encode(index, scheme, block_nbytes, &mut planned)?,
                None => tensor.copy(index, block_nbytes, &mut planned),
            }
        }
        Ok(planned)
    }

    pub(crate) fn source_nbytes(&self) -> u64 {
        self.tensors.iter().map(|tensor| tensor.source.nbytes).sum()
    }
}

impl TensorJob {
    fn fault(&self, reason: String) -> Error {
        let tensor = self.name.clone();
        Error::Store(StoreError::Job { tensor, reason })
    }

    fn copy(&self, tensor: usize, block_nbytes: u64, planned: &mut Planned) {
        let placed = planned.placed.len();
        planned.placed.push(Placed {
            name: self.name.clone(),
            dtype: self.dtype,
            shape: self.shape.clone(),
            starts_unit: self.starts_unit,
        });
        let tasks = pieces(self.source.nbytes, block_nbytes).map(|bytes| Task::Copy {
            tensor,
            placed,
            bytes,
        });
        planned.tasks.extend(tasks);
    }

    fn encode(
        &self,
        tensor: usize,
        scheme: Scheme,
        block_nbytes: u64,
        planned: &mut Planned,
    ) -> Result<(), Error> {
        let float = Float::from_code(self.dtype.code());
        let (float, rows, cols) = match (float, self.shape.as_slice()) {
            (Some(float), &[rows, cols]) if rows > 0 && cols > 0 => (float, rows, cols),
            _ => {
                let reason = format!(
                    "{} of shape {:?} cannot be encoded",
                    self.dtype.code(),
                    self.shape
                );
                return Err(self.fault(reason));
            }
        };
        if !cols.is_multiple_of(scheme.block() as u64) {
            let (name, block) = (scheme.name(), scheme.block());
            let reason = format!("rows of {cols} are not made of blocks of {block} ({name})");
            return Err(self.fault(reason));
        }
        let row_nbytes = self.source.nbytes / rows;
        if row_nbytes > block_nbytes {
            let reason =
                format!("a row has {row_nbytes} bytes, more than the {block_nbytes} allowed");
            return Err(self.fault(reason));
        }
        // A row fits into a block of memory, so its length does too.
        let cols = cols as usize;
        let first = planned.placed.len();
        let parts = self.parts(scheme, rows, cols);
        let encoding = Encoding {
            scheme,
            float,
            cols,
            q: first,
            scale: first + 1,
            row: scheme.has_row().then_some(first + 2),
        };
        planned.placed.extend(parts);
        if scheme == Scheme::Nf4 {
            let [map, state] = nf4_state(self.dtype, &self.shape);
            planned.fixed.push((first + 2, map));
            planned.fixed.push((first + 3, state));
        }
        let tasks = pieces(rows, block_nbytes / row_nbytes).map(|rows| Task::Encode {
            tensor,
            encoding,
            rows,
        });
        planned.tasks.extend(tasks);
        Ok(())
    }

    fn parts(&self, scheme: Scheme, rows: u64, cols: usize) -> Vec<Placed> {
        let (q_cols, blocks) = (scheme.q_bytes(cols) as u64, (cols / scheme.block()) as u64);
        let part = |suffix: &str, dtype, shape: &[u64]| Placed {
            name: format!("{}{suffix}", self.name),
            dtype,
            shape: shape.to_vec(),
            starts_unit: false,
        };
        let mut parts = match scheme {
            Scheme::Int8 => vec![
                part(".q", Dtype::I8, &[rows, q_cols]),
                part(".scale", Dtype::U8, &[rows, blocks]),
                part(".row", Dtype::F32, &[rows]),
            ],
            Scheme::Four | Scheme::FourHq => vec![
                part(".q", Dtype::U8, &[rows, q_cols]),
                part(".scale", Dtype::I8, &[rows, blocks]),
                part(".row", Dtype::F32, &[rows]),
            ],
            Scheme::Nf4 => {
                let [map, state] = nf4_state(self.dtype, &self.shape);
                vec![
                    part("", Dtype::U8, &[rows * q_cols, 1]),
                    part(".absmax", Dtype::F32, &[rows * blocks]),
                    part(".quant_map", Dtype::F32, &[map.len() as u64 / 4]),
                    part(
                        ".quant_state.bitsandbytes__nf4",
                        Dtype::U8,
                        &[state.len() as u64],
                    ),
                ]
            }
        };
        parts[0].starts_unit = true;
        parts
    }
}

// The codebook, and what bitsandbytes has to know beside it, as its `QuantState.as_dict` packs it.
fn nf4_state(dtype: Dtype, shape: &[u64]) -> [Vec<u8>; 2] {
    let map = NF4.iter().flat_map(|code| code.to_le_bytes()).collect();
    let torch_name = match dtype {
        Dtype::BF16 => "bfloat16",
        Dtype::F16 => "float16",
        _ => "float32",
    };
    let state = json!({
        "quant_type": "nf4",
        "blocksize": Scheme::Nf4.block(),
        "dtype": torch_name,
        "shape": shape,
    });
    [map, state.to_string().into_bytes()]
}

fn pieces(total: u64, piece: u64) -> impl Iterator<Item = Range<u64>> {
    let piece = piece.max(1);
    (0..total.div_ceil(piece)).map(move |n| n * piece..((n + 1) * piece).min(total))
}
