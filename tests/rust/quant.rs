//! Kernels against their scalar references, and against numbers worked out by hand.

mod affine;
mod attention;
mod dense;
mod dequantize;
mod encode;
mod fp8;
mod fused;
mod fused_blocks;
mod ggml;
mod noise;
mod numbers;
mod odd;
mod product;
mod repack;
mod team;

use airllm_rs::quant::float::f32_to_f16;
use airllm_rs::quant::layout::{Layout, ScaleKind};
use airllm_rs::quant::tier::Tier;
use airllm_rs::quant::weight::{Parts, Weight};

/// The tiers of this processor.
fn tiers() -> impl Iterator<Item = Tier> {
    Tier::ALL.into_iter().filter(|tier| tier.is_available())
}

/// A small generator: the same numbers on every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        // xorshift64*
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }

    fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.next() as u8).collect()
    }

    /// In (0, 1).
    fn unit(&mut self) -> f64 {
        ((self.next() & 0xffff_ffff) as f64 + 0.5) / 4_294_967_296.0
    }

    fn normal(&mut self) -> f32 {
        let radius = (-2.0 * self.unit().ln()).sqrt();
        (radius * (std::f64::consts::TAU * self.unit()).cos()) as f32
    }

    fn normals(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| self.normal()).collect()
    }
}

/// What scales may be made of.
fn kinds() -> [ScaleKind; 9] {
    [
        ScaleKind::F32,
        ScaleKind::Scb,
        ScaleKind::F16,
        ScaleKind::Bf16,
        ScaleKind::E8m0,
        ScaleKind::E4m3Global,
        ScaleKind::I8Row,
        ScaleKind::U8Row,
        ScaleKind::Nested {
            block: 3,
            offset: 0.01,
        },
    ]
}

/// A weight of lut4 or int8 with its bytes.
struct Owned {
    rows: usize,
    cols: usize,
    q: Vec<u8>,
    scale: Vec<u8>,
    row: Vec<u8>,
    nested_code: Vec<u8>,
    nested_scale: Vec<u8>,
}

impl Owned {
    /// Random codes, and scales of ordinary size.
    fn random(random: &mut Random, layout: &Layout, rows: usize, cols: usize) -> Self {
        let (block, kind, q) = match layout {
            Layout::Lut4(lut4) => (lut4.block, lut4.scale, rows * cols / 2),
            Layout::Int8(int8) => (int8.block, int8.scale, rows * cols),
            _ => panic!("no such weight: {layout:?}"),
        };
        let scales = (rows * cols).div_ceil(block);
        let mut floats = |count: usize| random.normals(count);
        let scale = match kind {
            ScaleKind::F32 | ScaleKind::Scb => floats(scales)
                .into_iter()
                .flat_map(f32::to_le_bytes)
                .collect(),
            ScaleKind::F16 => (floats(scales).into_iter())
                .flat_map(|scale| f32_to_f16(scale).to_le_bytes())
                .collect(),
            ScaleKind::Bf16 => (floats(scales).into_iter())
                .flat_map(|scale| ((scale.to_bits() >> 16) as u16).to_le_bytes())
                .collect(),
            ScaleKind::E8m0 => (random.bytes(scales).into_iter())
                .map(|byte| 110 + byte % 24)
                .collect(),
            ScaleKind::E4m3Global => (random.bytes(scales).into_iter())
                .map(|byte| byte & 0xf7)
                .collect(),
            ScaleKind::I8Row | ScaleKind::U8Row | ScaleKind::Nested { .. } => random.bytes(scales),
        };
        let mut floats = |count: usize| -> Vec<u8> {
            let numbers = random.normals(count).into_iter();
            numbers
                .flat_map(|number| (0.05 * number).to_le_bytes())
                .collect()
        };
        Self {
            rows,
            cols,
            scale,
            row: floats(rows),
            nested_code: floats(256),
            nested_scale: floats(scales),
            q: random.bytes(q),
        }
    }

    fn weight<'a>(&'a self, layout: &'a Layout) -> Weight<'a> {
        let parts = Parts {
            q: &self.q,
            scale: &self.scale,
            row: &self.row,
            nested_code: &self.nested_code,
            nested_scale: &self.nested_scale,
            ..Parts::default()
        };
        Weight::new(layout, self.rows, self.cols, parts).unwrap()
    }
}
