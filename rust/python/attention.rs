//! Attention of a few new tokens to a cache.

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::python::bytes::{Bytes, Strided};
use crate::python::errors::raise;
use crate::python::quant::float;
use crate::quant::attention;
use crate::quant::attention::{Attention, Mask, Strides, Vectors};
use crate::quant::tier::Tier;

/// Let few tokens attend to keys and values.
#[pyfunction]
#[pyo3(signature = (q, k, v, out, dtype, *, scale, origins=None, window=None, mask=None, softcap=None, sinks=None))]
#[expect(
    clippy::too_many_arguments,
    reason = "one keyword per part of attention"
)]
pub(crate) fn attend(
    py: Python<'_>,
    q: &Bound<'_, PyAny>,
    k: &Bound<'_, PyAny>,
    v: &Bound<'_, PyAny>,
    out: &Bound<'_, PyAny>,
    dtype: &str,
    scale: f32,
    origins: Option<Vec<isize>>,
    window: Option<usize>,
    mask: Option<&Bound<'_, PyAny>>,
    softcap: Option<f32>,
    sinks: Option<&Bound<'_, PyAny>>,
) -> PyResult<()> {
    let float = float(dtype)?;
    let tier = Tier::chosen().map_err(raise)?;
    let (q, k, v) = (given(q)?, given(k)?, given(v)?);
    let [batch, heads, tokens, dim] = q.shape;
    let [_, groups, length, value_dim] = v.shape;
    if k.shape != [batch, groups, length, dim] || v.shape[0] != batch {
        return Err(PyValueError::new_err(format!(
            "queries, keys and values of shapes {:?}, {:?} and {:?}",
            q.shape, k.shape, v.shape
        )));
    }
    if [&q, &k, &v]
        .iter()
        .any(|part| part.itemsize != float.nbytes())
    {
        return Err(PyValueError::new_err(format!("items are not of {dtype}")));
    }
    let mask = mask.map(|mask| Added::read(mask, [batch, tokens, length]));
    let mask = mask.transpose()?;
    let sinks = sinks.map(Bytes::read).transpose()?;
    let mut out = Bytes::write(out)?;
    let strides = Strides {
        batch: tokens * heads * value_dim,
        head: value_dim,
        token: heads * value_dim,
    };
    let result = py.detach(|| {
        let hidden = mask.as_ref().map(Added::numbers);
        let call = Attention {
            float,
            batch,
            heads,
            groups,
            tokens,
            length,
            dim,
            value_dim,
            q: vectors(&q),
            k: vectors(&k),
            v: vectors(&v),
            scale,
            origins: origins.as_deref().unwrap_or_default(),
            window,
            softcap,
            sinks: sinks.as_ref().map(Bytes::as_slice),
            mask: hidden.as_ref().map(Numbers::mask),
        };
        attention::attend(tier, &call, out.as_mut_slice(), strides)
    });
    result.map_err(raise)
}

/// Vectors whose items are contiguous.
fn given(owner: &Bound<'_, PyAny>) -> PyResult<Strided<4>> {
    let given = Strided::<4>::read(owner)?;
    if given.shape[3] > 1 && given.strides[3] != 1 {
        return Err(PyValueError::new_err("the items of a vector lie apart"));
    }
    Ok(given)
}

fn vectors(given: &Strided<4>) -> Vectors<'_> {
    let [batch, head, token, _] = given.strides;
    Vectors {
        bytes: given.as_slice(),
        strides: Strides { batch, head, token },
    }
}

/// A mask as it came: f32 that are added, or whether a key is seen.
struct Added(Strided<4>);

/// A mask as the kernel wants it.
struct Numbers<'a> {
    bytes: std::borrow::Cow<'a, [u8]>,
    batch_stride: usize,
    token_stride: usize,
}

impl Added {
    fn read(owner: &Bound<'_, PyAny>, [batch, tokens, length]: [usize; 3]) -> PyResult<Self> {
        let mask = Strided::<4>::read(owner)?;
        let [sequences, heads, rows, cols] = mask.shape;
        let fits = (sequences == 1 || sequences == batch) && heads == 1;
        if !fits || rows != tokens || cols != length {
            return Err(PyValueError::new_err(format!(
                "a mask of shape {:?} in place of ({batch} or 1, 1, {tokens}, {length})",
                mask.shape
            )));
        }
        match mask.itemsize {
            1 => Ok(Self(mask)),
            4 if cols <= 1 || mask.strides[3] == 1 => Ok(Self(mask)),
            _ => Err(PyValueError::new_err(
                "a mask is bool, or f32 with contiguous rows",
            )),
        }
    }

    fn numbers(&self) -> Numbers<'_> {
        let mask = &self.0;
        let [sequences, _, rows, cols] = mask.shape;
        let [batch, _, token, key] = mask.strides;
        if mask.itemsize == 4 {
            return Numbers {
                bytes: mask.as_slice().into(),
                batch_stride: batch,
                token_stride: token,
            };
        }
        let seen = mask.as_slice();
        let mut bytes = Vec::with_capacity(sequences * rows * cols * 4);
        for sequence in 0..sequences {
            for row in 0..rows {
                for col in 0..cols {
                    let is_seen = seen[sequence * batch + row * token + col * key] != 0;
                    let number = if is_seen { 0.0 } else { f32::NEG_INFINITY };
                    bytes.extend_from_slice(&number.to_le_bytes());
                }
            }
        }
        Numbers {
            bytes: bytes.into(),
            batch_stride: if sequences == 1 { 0 } else { rows * cols },
            token_stride: cols,
        }
    }
}

impl Numbers<'_> {
    fn mask(&self) -> Mask<'_> {
        Mask {
            bytes: &self.bytes,
            batch_stride: self.batch_stride,
            token_stride: self.token_stride,
        }
    }
}
