//! Small floating-point formats, one item at a time: the reference for every kernel.

use serde::Deserialize;

/// Dtypes that activations and results have, and dense weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Float {
    /// IEEE binary32.
    F32,
    /// IEEE binary16.
    F16,
    /// The upper half of a binary32.
    Bf16,
}

impl Float {
    /// Bytes of one item.
    #[must_use]
    pub const fn nbytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
        }
    }

    /// The dtype of safetensors' code.
    #[must_use]
    pub fn from_code(code: &str) -> Option<Self> {
        match code {
            "F32" => Some(Self::F32),
            "F16" => Some(Self::F16),
            "BF16" => Some(Self::Bf16),
            _ => None,
        }
    }

    /// The item at `index` of little-endian bytes, as f32 (exact).
    ///
    /// # Panics
    /// If the bytes end before it.
    #[must_use]
    pub fn load(self, bytes: &[u8], index: usize) -> f32 {
        match self {
            Self::F32 => f32::from_bits(u32_at(bytes, index)),
            Self::F16 => f16_to_f32(u16_at(bytes, index)),
            Self::Bf16 => bf16_to_f32(u16_at(bytes, index)),
        }
    }

    /// Write a number to the bytes of one item, rounded to nearest even.
    ///
    /// # Panics
    /// If `out` is not of the size of an item.
    pub fn store(self, number: f32, out: &mut [u8]) {
        match self {
            Self::F32 => out.copy_from_slice(&number.to_le_bytes()),
            Self::F16 => out.copy_from_slice(&f32_to_f16(number).to_le_bytes()),
            Self::Bf16 => out.copy_from_slice(&f32_to_bf16(number).to_le_bytes()),
        }
    }
}

/// The `index`-th little-endian u16.
///
/// # Panics
/// If the bytes end before it.
#[must_use]
pub fn u16_at(bytes: &[u8], index: usize) -> u16 {
    u16::from_le_bytes([bytes[2 * index], bytes[2 * index + 1]])
}

/// The `index`-th little-endian u32.
///
/// # Panics
/// If the bytes end before it.
#[must_use]
pub fn u32_at(bytes: &[u8], index: usize) -> u32 {
    let start = 4 * index;
    u32::from_le_bytes([
        bytes[start],
        bytes[start + 1],
        bytes[start + 2],
        bytes[start + 3],
    ])
}

/// The `index`-th little-endian f32.
///
/// # Panics
/// If the bytes end before it.
#[must_use]
pub fn f32_at(bytes: &[u8], index: usize) -> f32 {
    f32::from_bits(u32_at(bytes, index))
}

/// The value of a bfloat16.
#[must_use]
pub const fn bf16_to_f32(bits: u16) -> f32 {
    f32::from_bits((bits as u32) << 16)
}

/// Rounded to nearest even, as torch rounds; every NaN becomes 0x7fc0, as there.
#[must_use]
pub const fn f32_to_bf16(value: f32) -> u16 {
    if value.is_nan() {
        return 0x7fc0;
    }
    let bits = value.to_bits();
    let rounded = bits + 0x7fff + ((bits >> 16) & 1);
    (rounded >> 16) as u16
}

/// The value of an IEEE binary16; NaN becomes quiet and keeps its payload, as processors have it.
#[must_use]
pub const fn f16_to_f32(bits: u16) -> f32 {
    let sign = ((bits & 0x8000) as u32) << 16;
    let exponent = ((bits >> 10) & 0x1f) as u32;
    let mantissa = (bits & 0x3ff) as u32;
    let magnitude = match (exponent, mantissa) {
        (0, 0) => 0,
        (0, _) => {
            // subnormal: mantissa * 2^-24, normalised
            let shift = mantissa.leading_zeros() - 21;
            ((113 - shift) << 23) | ((mantissa << (13 + shift)) & 0x7f_ffff)
        }
        (0x1f, 0) => 0x7f80_0000,
        (0x1f, _) => 0x7fc0_0000 | (mantissa << 13),
        _ => ((exponent + 112) << 23) | (mantissa << 13),
    };
    f32::from_bits(sign | magnitude)
}

/// Rounded to nearest even; too large becomes infinite.
#[must_use]
pub const fn f32_to_f16(value: f32) -> u16 {
    let bits = value.to_bits();
    let sign = ((bits >> 16) & 0x8000) as u16;
    let magnitude = bits & 0x7fff_ffff;
    if magnitude > 0x7f80_0000 {
        return sign | 0x7e00 | ((magnitude >> 13) & 0x3ff) as u16;
    }
    if magnitude >= 0x4780_0000 {
        return sign | 0x7c00; // 65536 and more
    }
    if magnitude < 0x3880_0000 {
        // below 2^-14: a multiple of 2^-24
        if magnitude < 0x3300_0000 {
            return sign; // below 2^-25
        }
        let shift = 126 - (magnitude >> 23);
        let mantissa = (magnitude & 0x7f_ffff) | 0x80_0000;
        let kept = mantissa >> shift;
        let rest = mantissa & ((1 << shift) - 1);
        let half = 1 << (shift - 1);
        let up = rest > half || (rest == half && kept & 1 == 1);
        return sign | (kept + up as u32) as u16;
    }
    let rebased = magnitude - 0x3800_0000;
    let rounded = rebased + 0xfff + ((rebased >> 13) & 1);
    sign | (rounded >> 13) as u16
}

/// The value of an OCP FP8 E4M3 ("fn": no infinities, 0x7f and 0xff are NaN).
#[must_use]
pub const fn e4m3_to_f32(bits: u8) -> f32 {
    let magnitude = bits & 0x7f;
    if magnitude == 0x7f {
        return f32::NAN;
    }
    // the same fields in a binary16 mean 2^-8 of the value, subnormals too
    let half = (((bits & 0x80) as u16) << 8) | ((magnitude as u16) << 7);
    f16_to_f32(half) * 256.0
}

/// The value of an FP8 E5M2: the upper half of a binary16.
#[must_use]
pub const fn e5m2_to_f32(bits: u8) -> f32 {
    f16_to_f32((bits as u16) << 8)
}

/// The value of an E8M0 scale: 2^(bits - 127); 255 is NaN.
#[must_use]
pub const fn e8m0_to_f32(bits: u8) -> f32 {
    match bits {
        255 => f32::NAN,
        0 => f32::from_bits(0x40_0000), // 2^-127, subnormal
        _ => f32::from_bits((bits as u32) << 23),
    }
}
