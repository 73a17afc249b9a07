//! Kernels of packed weights, beside a copy and a read of memory.
//!
//! `taskset -c 0 cargo bench --bench quant` measures one core. Compare within one run: the bytes of
//! `dequantize` are those written, as of `memcpy`; the bytes of `product` are the packed ones, as of
//! `read`. All working sets are larger than caches.

use std::hint::black_box;

use airllm_rs::quant::dequantize::dequantize;
use airllm_rs::quant::encode::{Effort, Row};
use airllm_rs::quant::float::Float;
use airllm_rs::quant::product::{Activations, Product, products};
use airllm_rs::quant::scheme::Scheme;
use airllm_rs::quant::team;
use airllm_rs::quant::team::Output;
use airllm_rs::quant::tier::Tier;
use airllm_rs::quant::weight::{Parts, Weight};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

// A large matrix of a language model, and how many of them.
// `cargo test` builds without optimisation and runs each once, to see that it works.
const ROWS: usize = if cfg!(debug_assertions) { 64 } else { 4096 };
const COLS: usize = if cfg!(debug_assertions) { 512 } else { 14336 };
const COUNT: usize = 8;

// Bytes that a thread reads at a time.
const PIECE: usize = 1 << 18;

fn tiers() -> impl Iterator<Item = Tier> {
    Tier::ALL.into_iter().filter(|tier| tier.is_available())
}

/// The bytes of `COUNT` weights of any scheme.
struct Bytes {
    q: Vec<u8>,
    scale: Vec<u8>,
    row: Vec<u8>,
}

impl Bytes {
    fn new() -> Self {
        let mut state = 1_u64;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        let words = COUNT * ROWS * COLS / 8;
        Self {
            q: (0..words).flat_map(|_| next().to_le_bytes()).collect(),
            // small when they are taken for f32, too
            scale: (0..words / 16)
                .flat_map(|_| (next() & 0x3f3f_3f3f_3f3f_3f3f).to_le_bytes())
                .collect(),
            row: (0..ROWS).flat_map(|_| 1e-3_f32.to_le_bytes()).collect(),
        }
    }

    fn parts(&self, scheme: Scheme, index: usize) -> Parts<'_> {
        let q = ROWS * scheme.q_bytes(COLS);
        let scale = ROWS * scheme.scale_bytes(COLS);
        Parts {
            q: &self.q[index * q..][..q],
            scale: &self.scale[index * scale..][..scale],
            row: &self.row,
            ..Parts::default()
        }
    }
}

/// Look at every byte, on all threads.
fn read(bytes: &[u8]) {
    team::run(bytes.len() / PIECE, &|piece| {
        let mut seen = [0_u64; 64];
        for words in bytes[piece * PIECE..][..PIECE].as_chunks::<512>().0 {
            for (seen, word) in seen.iter_mut().zip(words.as_chunks::<8>().0) {
                *seen ^= u64::from_le_bytes(*word);
            }
        }
        black_box(seen);
    });
}

fn bench_dequantize(criterion: &mut Criterion) {
    let bytes = Bytes::new();
    let mut group = criterion.benchmark_group("dequantize");
    group.sample_size(10);
    let source = vec![1_u8; 4 * ROWS * COLS];
    let mut out = vec![0_u8; 4 * ROWS * COLS];
    for float in [Float::Bf16, Float::F32] {
        let size = ROWS * COLS * float.nbytes();
        group.throughput(Throughput::Bytes(size as u64));
        group.bench_function(
            BenchmarkId::new("memcpy", format!("{float:?}")),
            |bencher| {
                bencher.iter(|| {
                    out[..size].copy_from_slice(&source[..size]);
                    black_box(&mut out);
                });
            },
        );
        for scheme in Scheme::ALL {
            let layout = scheme.layout();
            let parts = bytes.parts(scheme, 0);
            let Ok(weight) = Weight::new(&layout, ROWS, COLS, parts) else {
                panic!("the parts are as large as they should be");
            };
            for tier in tiers() {
                let id = BenchmarkId::new(scheme.name(), format!("{float:?}/{}", tier.name()));
                group.bench_function(id, |bencher| {
                    bencher.iter(|| dequantize(tier, &weight, 0..ROWS, float, &mut out[..size]));
                });
            }
        }
    }
    group.finish();
}

fn bench_product(criterion: &mut Criterion) {
    let bytes = Bytes::new();
    let mut group = criterion.benchmark_group("product");
    group.sample_size(10);
    for scheme in Scheme::ALL {
        let layout = scheme.layout();
        let size = COUNT * ROWS * (scheme.q_bytes(COLS) + scheme.scale_bytes(COLS));
        let same = &bytes.q[..size.min(bytes.q.len()) / PIECE * PIECE];
        group.throughput(Throughput::Bytes(same.len() as u64));
        group.bench_function(BenchmarkId::new("read", scheme.name()), |bencher| {
            bencher.iter(|| read(same));
        });
        group.throughput(Throughput::Bytes(size as u64));
        for tier in tiers().filter(|&tier| tier != Tier::Scalar) {
            for float in [Float::Bf16, Float::F32] {
                for rows in [1, 8, 32] {
                    let x = vec![0_u8; rows * COLS * float.nbytes()];
                    let given = Activations {
                        float,
                        rows,
                        cols: COLS,
                        bytes: &x,
                    };
                    let mut outs = vec![vec![0_u8; rows * ROWS * float.nbytes()]; COUNT];
                    let setting = format!("{float:?}/{}/{rows}", tier.name());
                    let id = BenchmarkId::new(scheme.name(), setting);
                    group.bench_function(id, |bencher| {
                        bencher.iter(|| {
                            let mut all = Vec::new();
                            for (index, out) in outs.iter_mut().enumerate() {
                                let parts = bytes.parts(scheme, index);
                                let Ok(weight) = Weight::new(&layout, ROWS, COLS, parts) else {
                                    panic!("the parts are as large as they should be");
                                };
                                all.push(Product {
                                    weight,
                                    bias: None,
                                    out: Output::new(out),
                                    stride: ROWS,
                                });
                            }
                            products(tier, given, &mut all)
                        });
                    });
                }
            }
        }
    }
    group.finish();
}

fn bench_encode(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("encode");
    group.sample_size(10);
    let mut state = 1_u32;
    let values: Vec<f32> = (0..64 * COLS)
        .map(|_| {
            // a sum of uniform numbers is near enough to a normal one
            (0..4).fold(0.0, |sum, _| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                sum + (state >> 8) as f32 / 16_777_216.0 - 0.5
            })
        })
        .collect();
    group.throughput(Throughput::Elements(values.len() as u64));
    for scheme in Scheme::ALL {
        let mut q = vec![0; scheme.q_bytes(COLS)];
        let mut scale = vec![0; scheme.scale_bytes(COLS)];
        for effort in [Effort::Fast, Effort::Search] {
            for tier in tiers() {
                let setting = format!("{effort:?}/{}", tier.name());
                group.bench_function(BenchmarkId::new(scheme.name(), setting), |bencher| {
                    bencher.iter(|| {
                        for values in values.chunks_exact(COLS) {
                            let row = Row {
                                scheme,
                                effort,
                                values,
                            };
                            let _ = black_box(row.encode(tier, &mut q, &mut scale));
                        }
                    });
                });
            }
        }
    }
    group.finish();
}

criterion_group!(benches, bench_dequantize, bench_product, bench_encode);
criterion_main!(benches);
