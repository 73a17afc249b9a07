//! How the bytes of a weight become numbers, for every format that is read.

use serde::Deserialize;

use crate::error::Error;
use crate::quant::float::Float;

/// The 16 values of NF4 (bitsandbytes).
pub const NF4: [f32; 16] = [
    -1.0,
    -0.696_192_8,
    -0.525_073_05,
    -0.394_917_5,
    -0.284_441_38,
    -0.184_773_43,
    -0.091_050_036,
    0.0,
    0.079_580_3,
    0.160_930_2,
    0.246_112_3,
    0.337_915_24,
    0.440_709_83,
    0.562_617,
    0.722_956_84,
    1.0,
];

/// How a weight of shape (rows, cols) lies in its parts.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(tag = "kind", content = "options", rename_all = "snake_case")]
pub enum Layout {
    /// Numbers as they are; part `q`.
    Dense(Float),
    /// Four bits into a table of 16.
    Lut4(Lut4),
    /// Signed bytes.
    Int8(Int8),
    /// Eight-bit floats.
    Fp8(Fp8),
    /// Unsigned integers with zero points.
    Affine(Affine),
    /// Bytes into a table of 256 (bitsandbytes' 8-bit blocks, as AirLLM writes them).
    Table8(Table8),
    /// A block type of GGUF; part `q`.
    Ggml(GgmlType),
}

/// What scales are made of.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScaleKind {
    /// Part `scale` holds f32.
    F32,
    /// Part `scale` holds binary16.
    F16,
    /// Part `scale` holds bfloat16.
    Bf16,
    /// Part `scale` holds f32, 127 times as large as the scales (bitsandbytes' `SCB`).
    Scb,
    /// Part `scale` holds E8M0, 2^(s - 127).
    E8m0,
    /// Part `scale` holds E4M3; part `row` is one f32 that they are multiplied (or divided) by.
    E4m3Global,
    /// Part `scale` holds i8, part `row` one f32 per row: their product.
    I8Row,
    /// Part `scale` holds u8, part `row` one f32 per row: their product.
    U8Row,
    /// bitsandbytes' double quantisation: `code[u8] * scale2[i / block] + offset`, where part
    /// `nested_code` is 256 numbers of f32 and `nested_scale` the f32 `scale2`.
    Nested {
        /// Scales that share a `scale2`.
        block: usize,
        /// Added to each scale.
        offset: f32,
    },
}

/// Nibbles that index a table: NF4, FP4, MXFP4, NVFP4, and what this package writes.
///
/// `w = codebook[q] * scale`, where a two-part scale is multiplied out first, in f32. Blocks count
/// along the flattened tensor. Parts `q` (cols / 2 bytes per row), `scale`, `row`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lut4 {
    /// What the nibbles mean.
    pub codebook: [f32; 16],
    /// Weights that share a scale.
    pub block: usize,
    /// What scales are made of.
    pub scale: ScaleKind,
    /// Whether the low nibble comes first; bitsandbytes' and ours put the high one first.
    pub low_first: bool,
    /// Whether scales of `E4m3Global` are divided by the global one (compressed-tensors) instead.
    pub global_divides: bool,
}

/// `w = q * scale`, q a signed byte. Parts `q`, `scale`, `row`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Int8 {
    /// Weights along a row that share a scale; the columns for one scale per row.
    pub block: usize,
    /// What scales are made of.
    pub scale: ScaleKind,
}

/// Eight-bit floats with one scale per rectangle: `w = q * scale`. Parts `q`, `scale`.
///
/// The last rectangle of a row or column may be cut off: the scales are a grid of
/// (ceil(rows / `block_rows`), ceil(cols / `block_cols`)).
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fp8 {
    /// E5M2 in place of E4M3.
    pub is_e5m2: bool,
    /// Rows that share a scale.
    pub block_rows: usize,
    /// Columns that share a scale.
    pub block_cols: usize,
    /// What scales are made of: a float, or E8M0.
    pub scale: ScaleKind,
}

/// `w = scale * (q - zero)`, per group of columns. Parts `q`, `scale`, and `zero` or `group`.
///
/// q lies row-major, low nibble first where `bits` is 4.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Affine {
    /// Of q: 4 or 8.
    pub bits: usize,
    /// Columns that share a scale and a zero point.
    pub group: usize,
    /// Dtype of the scales, (rows, groups).
    pub scale: Float,
    /// Zero points.
    pub zero: Zero,
    /// Whether part `group` holds, for each column, the u32 number of its group (GPTQ `desc_act`).
    pub has_group_index: bool,
}

/// Zero points of a group.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Zero {
    /// All the same.
    Fixed(i32),
    /// Part `zero` holds one byte each, (rows, groups).
    U8,
    /// Part `zero` holds floats of this dtype, (rows, groups).
    Float(Float),
}

/// `w = codebook[q] * absmax`, absmax f32 per block of the flattened tensor. Parts `q`, `scale`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Table8 {
    /// What the bytes mean.
    #[serde(deserialize_with = "table")]
    pub codebook: Box<[f32; 256]>,
    /// Weights that share an absmax.
    pub block: usize,
}

/// The block types of GGUF that are kept as they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize)]
#[expect(missing_docs, reason = "named as the format names them")]
#[expect(non_camel_case_types, reason = "named as the format names them")]
pub enum GgmlType {
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q2_K,
    Q3_K,
    Q4_K,
    Q5_K,
    Q6_K,
    IQ4_NL,
    IQ4_XS,
    MXFP4,
}

fn table<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Box<[f32; 256]>, D::Error> {
    let numbers = Vec::<f32>::deserialize(from)?;
    let found = numbers.len();
    numbers
        .into_boxed_slice()
        .try_into()
        .map_err(|_| serde::de::Error::invalid_length(found, &"256 numbers"))
}

impl Layout {
    /// The layout that a JSON object describes: `{"kind": …, "options": …}`.
    ///
    /// # Errors
    /// `Layout` saying where it makes no sense.
    pub fn from_json(text: &str) -> Result<Self, Error> {
        serde_json::from_str(text).map_err(|source| Error::Layout { source })
    }
}

impl GgmlType {
    /// Every type.
    pub const ALL: [Self; 13] = [
        Self::Q4_0,
        Self::Q4_1,
        Self::Q5_0,
        Self::Q5_1,
        Self::Q8_0,
        Self::Q2_K,
        Self::Q3_K,
        Self::Q4_K,
        Self::Q5_K,
        Self::Q6_K,
        Self::IQ4_NL,
        Self::IQ4_XS,
        Self::MXFP4,
    ];

    /// Its name, as ggml spells it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Q4_0 => "Q4_0",
            Self::Q4_1 => "Q4_1",
            Self::Q5_0 => "Q5_0",
            Self::Q5_1 => "Q5_1",
            Self::Q8_0 => "Q8_0",
            Self::Q2_K => "Q2_K",
            Self::Q3_K => "Q3_K",
            Self::Q4_K => "Q4_K",
            Self::Q5_K => "Q5_K",
            Self::Q6_K => "Q6_K",
            Self::IQ4_NL => "IQ4_NL",
            Self::IQ4_XS => "IQ4_XS",
            Self::MXFP4 => "MXFP4",
        }
    }

    /// Weights in a block.
    #[must_use]
    pub const fn block(self) -> usize {
        match self {
            Self::Q4_0
            | Self::Q4_1
            | Self::Q5_0
            | Self::Q5_1
            | Self::Q8_0
            | Self::IQ4_NL
            | Self::MXFP4 => 32,
            Self::Q2_K | Self::Q3_K | Self::Q4_K | Self::Q5_K | Self::Q6_K | Self::IQ4_XS => 256,
        }
    }

    /// Bytes of a block.
    #[must_use]
    pub const fn block_bytes(self) -> usize {
        match self {
            Self::MXFP4 => 17,
            Self::Q4_0 | Self::IQ4_NL => 18,
            Self::Q4_1 => 20,
            Self::Q5_0 => 22,
            Self::Q5_1 => 24,
            Self::Q8_0 => 34,
            Self::Q2_K => 84,
            Self::Q3_K => 110,
            Self::IQ4_XS => 136,
            Self::Q4_K => 144,
            Self::Q5_K => 176,
            Self::Q6_K => 210,
        }
    }
}
