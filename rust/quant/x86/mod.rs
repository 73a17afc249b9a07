//! What kernels for x86-64 share: loads, stores and conversions of whole registers.

pub(crate) mod avx2;
pub(crate) mod avx512;
