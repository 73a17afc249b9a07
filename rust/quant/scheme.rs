//! The schemes that this package encodes, and how they lie in a shard store.

use crate::quant::layout::{Int8, Layout, Lut4, NF4, ScaleKind};

/// What `compression=` names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// `8bit`: int8, blocks of 64, scale u8 times f32 of the row.
    Int8,
    /// `4bit`: NF4 codebook, blocks of 32, scale i8 times f32 of the row.
    Four,
    /// `4bit-hq`: the same in blocks of 16.
    FourHq,
    /// `nf4`: bitsandbytes' NF4, blocks of 64 with f32 absmax.
    Nf4,
}

impl Scheme {
    /// Every scheme.
    pub const ALL: [Self; 4] = [Self::Int8, Self::Four, Self::FourHq, Self::Nf4];

    /// Its name, as `compression=` spells it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Int8 => "8bit",
            Self::Four => "4bit",
            Self::FourHq => "4bit-hq",
            Self::Nf4 => "nf4",
        }
    }

    /// The scheme of this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|scheme| scheme.name() == name)
    }

    /// Weights that share a scale.
    #[must_use]
    pub const fn block(self) -> usize {
        match self {
            Self::Int8 | Self::Nf4 => 64,
            Self::Four => 32,
            Self::FourHq => 16,
        }
    }

    /// Bytes of the codes of a row.
    #[must_use]
    pub const fn q_bytes(self, cols: usize) -> usize {
        match self {
            Self::Int8 => cols,
            Self::Four | Self::FourHq | Self::Nf4 => cols / 2,
        }
    }

    /// Bytes of the scales of a row.
    #[must_use]
    pub const fn scale_bytes(self, cols: usize) -> usize {
        let blocks = cols / self.block();
        match self {
            Self::Nf4 => 4 * blocks,
            Self::Int8 | Self::Four | Self::FourHq => blocks,
        }
    }

    /// Whether each row has an f32 that its scales are multiplied by.
    #[must_use]
    pub const fn has_row(self) -> bool {
        !matches!(self, Self::Nf4)
    }

    /// How the encoded weights are decoded.
    #[must_use]
    pub fn layout(self) -> Layout {
        let lut4 = |scale| {
            Layout::Lut4(Lut4 {
                codebook: NF4,
                block: self.block(),
                scale,
                low_first: false,
                global_divides: false,
            })
        };
        match self {
            Self::Int8 => Layout::Int8(Int8 {
                block: self.block(),
                scale: ScaleKind::U8Row,
            }),
            Self::Four | Self::FourHq => lut4(ScaleKind::I8Row),
            Self::Nf4 => lut4(ScaleKind::F32),
        }
    }
}
