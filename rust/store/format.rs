//! How the tensors of one file of a store lie in it: ordinary safetensors, aligned for direct reads.

use std::collections::{BTreeMap, HashSet};
use std::fmt::Write as _;

use crate::dtype::Dtype;
use crate::error::{Error, StoreError};

/// Where units begin.
pub const UNIT_ALIGNMENT: u64 = 4096;
/// Where tensors begin.
pub const TENSOR_ALIGNMENT: u64 = 64;
/// Tensors that fill the gaps are called this and a number.
pub const PAD: &str = "__pad__.";

/// A tensor that a file will have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placed {
    /// Its name.
    pub name: String,
    /// Type of its items.
    pub dtype: Dtype,
    /// Length of each side.
    pub shape: Vec<u64>,
    /// Whether it begins what is read at once.
    pub starts_unit: bool,
}

/// Where everything lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// The first bytes of the file, up to the first tensor.
    pub header: Vec<u8>,
    /// Where each tensor begins, from the start of the file, in the order given.
    pub offsets: Vec<u64>,
    /// Where zeros fill a gap: offset and length.
    pub pads: Vec<(u64, u64)>,
    /// Size of the file.
    pub nbytes: u64,
}

/// Lay out a file: the tensors in the order given.
///
/// # Errors
/// `Job` when a tensor has no size, or a name that pads or another tensor have.
pub fn lay_out(tensors: &[Placed], metadata: &BTreeMap<String, String>) -> Result<Layout, Error> {
    let mut json = String::from("{\"__metadata__\":");
    json += &text(metadata);
    let mut entry = |name: &str, dtype: Dtype, shape: &[u64], begin: u64, end: u64| {
        let shape: Vec<String> = shape.iter().map(u64::to_string).collect();
        // Writing to a string does not fail.
        let _ = write!(
            json,
            ",{}:{{\"dtype\":\"{}\",\"shape\":[{}],\"data_offsets\":[{begin},{end}]}}",
            text(&name),
            dtype.code(),
            shape.join(",")
        );
    };
    // From the start of the data.
    let mut offsets = Vec::with_capacity(tensors.len());
    let mut pads = Vec::new();
    let mut end = 0_u64;
    let mut names = HashSet::with_capacity(tensors.len());
    for tensor in tensors {
        let fault = |reason: &str| StoreError::Job {
            tensor: tensor.name.clone(),
            reason: reason.to_owned(),
        };
        if tensor.name.starts_with(PAD) || tensor.name == "__metadata__" {
            return Err(fault("the name is taken").into());
        }
        if !names.insert(tensor.name.as_str()) {
            return Err(fault("another tensor of the file has this name").into());
        }
        let nbytes = tensor.dtype.nbytes(&tensor.shape)?;
        let alignment = if tensor.starts_unit {
            UNIT_ALIGNMENT
        } else {
            TENSOR_ALIGNMENT
        };
        let begin = end.checked_next_multiple_of(alignment);
        let begin = begin.filter(|begin| begin.checked_add(nbytes).is_some_and(fits));
        let begin = begin.ok_or_else(|| fault("the file would have no size"))?;
        if begin > end {
            entry(
                &format!("{PAD}{}", pads.len()),
                Dtype::U8,
                &[begin - end],
                end,
                begin,
            );
            pads.push((end, begin - end));
        }
        end = begin + nbytes;
        entry(&tensor.name, tensor.dtype, &tensor.shape, begin, end);
        offsets.push(begin);
    }
    json.push('}');
    let length = (8 + json.len() as u64).next_multiple_of(UNIT_ALIGNMENT);
    let mut header = (length - 8).to_le_bytes().to_vec();
    header.extend(json.as_bytes());
    header.resize(length as usize, b' ');
    for offset in &mut offsets {
        *offset += length;
    }
    for (offset, _) in &mut pads {
        *offset += length;
    }
    Ok(Layout {
        header,
        offsets,
        pads,
        nbytes: length + end,
    })
}

// What a file can hold, with room for the header.
fn fits(end: u64) -> bool {
    end < 1 << 62
}

fn text(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).expect("strings are JSON")
}
