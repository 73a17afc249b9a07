//! Which kernels run: the best that the processor has, or the one that `AIRLLM_RS_SIMD` names.

use std::sync::OnceLock;

use crate::error::Error;

/// The variable that forces a tier.
pub const VARIABLE: &str = "AIRLLM_RS_SIMD";

/// A set of kernels, each at least as fast as those before it where it exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Tier {
    /// Plain Rust.
    Scalar,
    /// AArch64's baseline.
    Neon,
    /// AVX2, FMA and F16C.
    Avx2,
    /// AVX-512 F, BW, VL, DQ, on top.
    Avx512,
    /// AVX512-BF16 and VNNI, on top.
    Avx512Bf16,
}

impl Tier {
    /// Every tier.
    pub const ALL: [Self; 5] = [
        Self::Scalar,
        Self::Neon,
        Self::Avx2,
        Self::Avx512,
        Self::Avx512Bf16,
    ];

    /// Its name, as the variable spells it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Scalar => "scalar",
            Self::Neon => "neon",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
            Self::Avx512Bf16 => "avx512bf16",
        }
    }

    /// Whether this processor has what the tier needs.
    #[must_use]
    pub fn is_available(self) -> bool {
        match self {
            Self::Scalar => true,
            Self::Neon => cfg!(target_arch = "aarch64"),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => {
                is_x86_feature_detected!("avx2")
                    && is_x86_feature_detected!("fma")
                    && is_x86_feature_detected!("f16c")
            }
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => {
                Self::Avx2.is_available()
                    && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512vl")
                    && is_x86_feature_detected!("avx512dq")
            }
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Bf16 => {
                Self::Avx512.is_available()
                    && is_x86_feature_detected!("avx512bf16")
                    && is_x86_feature_detected!("avx512vnni")
                    && is_x86_feature_detected!("avx512vbmi")
            }
            #[cfg(not(target_arch = "x86_64"))]
            Self::Avx2 | Self::Avx512 | Self::Avx512Bf16 => false,
        }
    }

    /// The best that this processor has.
    #[must_use]
    pub fn best() -> Self {
        Self::ALL
            .into_iter()
            .rev()
            .find(|tier| tier.is_available())
            .unwrap_or(Self::Scalar)
    }

    /// The tier of this process: the one that the variable names, else the best.
    ///
    /// # Errors
    /// When the variable names none, or one that this processor lacks.
    pub fn chosen() -> Result<Self, Error> {
        static CHOSEN: OnceLock<Result<Tier, String>> = OnceLock::new();
        CHOSEN
            .get_or_init(|| match std::env::var(VARIABLE) {
                Ok(name) if !name.is_empty() => Self::ALL
                    .into_iter()
                    .find(|tier| tier.name() == name && tier.is_available())
                    .ok_or(name),
                _ => Ok(Self::best()),
            })
            .clone()
            .map_err(|name| Error::SimdTier {
                name,
                available: Self::ALL
                    .into_iter()
                    .filter(|tier| tier.is_available())
                    .map(Self::name)
                    .collect::<Vec<_>>()
                    .join(", "),
            })
    }
}
