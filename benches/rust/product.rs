//! Products and attention beside a plain read of the same bytes by the same threads.
//!
//! Both take turns, so that a busy machine slows both; printed are medians, and in brackets the best.
#![expect(clippy::print_stdout, reason = "a bench prints what it measures")]

use std::hint::black_box;
use std::time::Instant;

use airllm_rs::quant::attention::{Attention, Strides, Vectors, attend};
use airllm_rs::quant::float::Float;
use airllm_rs::quant::layout::Layout;
use airllm_rs::quant::product::{Activations, Product, products};
use airllm_rs::quant::team;
use airllm_rs::quant::team::Output;
use airllm_rs::quant::tier::Tier;
use airllm_rs::quant::weight::{Parts, Weight};

const ROUNDS: usize = 21;
const GIB: usize = 1 << 30;

/// Sum a MiB at a time, on all threads.
fn read(bytes: &[u8]) {
    let pieces = bytes.len().div_ceil(1 << 20);
    team::run(pieces, &|piece| {
        let end = ((piece + 1) << 20).min(bytes.len());
        let (words, _) = bytes[piece << 20..end].as_chunks::<8>();
        let mut sums = [0_u64; 32];
        for words in words.chunks_exact(32) {
            for (sum, word) in sums.iter_mut().zip(words) {
                *sum = sum.wrapping_add(u64::from_le_bytes(*word));
            }
        }
        black_box(sums);
    });
}

fn copy(from: &[u8], to: &mut [u8]) {
    let half = from.len() / 2;
    let (first, second) = to.split_at_mut(half);
    let parts = [std::sync::Mutex::new(first), std::sync::Mutex::new(second)];
    team::run(2, &|part| {
        if let Ok(mut to) = parts[part].lock() {
            to.copy_from_slice(&from[part * half..(part + 1) * half]);
        }
    });
}

fn seconds(work: &mut dyn FnMut()) -> f64 {
    let start = Instant::now();
    work();
    start.elapsed().as_secs_f64()
}

/// Median and least.
type Times = (f64, f64);

fn times(mut all: Vec<f64>) -> Times {
    all.sort_by(f64::total_cmp);
    (all[all.len() / 2], all[0])
}

/// Times of two that take turns.
fn both(first: &mut dyn FnMut(), second: &mut dyn FnMut()) -> (Times, Times) {
    let (mut firsts, mut others) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        firsts.push(seconds(first));
        others.push(seconds(second));
    }
    (times(firsts), times(others))
}

fn report(name: &str, nbytes: usize, (ours, plain): (Times, Times)) {
    let speed = |time: f64| nbytes as f64 / time / 1e9;
    println!(
        "{name:36} {:8.3} ({:8.3}) ms {:5.1} ({:5.1}) GB/s, read {:5.1} ({:5.1}): {:.2} ({:.2})",
        ours.0 * 1e3,
        ours.1 * 1e3,
        speed(ours.0),
        speed(ours.1),
        speed(plain.0),
        speed(plain.1),
        plain.0 / ours.0,
        plain.1 / ours.1,
    );
}

fn numbers(float: Float, count: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let mut bytes = vec![0; count * float.nbytes()];
    for item in bytes.chunks_exact_mut(float.nbytes()) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        float.store((state >> 40) as f32 / (1 << 23) as f32 - 1.0, item);
    }
    bytes
}

fn product(tier: Tier, stored: Float, float: Float, rows: usize) {
    let (n, cols) = (4096, 14336);
    let q = numbers(stored, n * cols, 1);
    let x = numbers(float, rows * cols, 2);
    let layout = Layout::Dense(stored);
    let parts = Parts {
        q: &q,
        ..Parts::default()
    };
    let weight = Weight::new(&layout, n, cols, parts).expect("the parts have the sizes");
    let given = Activations {
        float,
        rows,
        cols,
        bytes: &x,
    };
    let mut out = vec![0; rows * n * float.nbytes()];
    let mut ours = || {
        let product = Product {
            weight,
            bias: None,
            out: Output::new(&mut out),
            stride: n,
        };
        products(tier, given, &mut [product]).expect("the sizes fit");
    };
    let times = both(&mut ours, &mut || read(&q));
    report(
        &format!("{} {stored:?} x {float:?} M={rows}", tier.name()),
        q.len(),
        times,
    );
}

/// One token, H = 24 and G = 8 of D = 128, at some length.
fn attention(tier: Tier, float: Float, length: usize) {
    let (heads, groups, dim) = (24, 8, 128);
    let (q, k, v) = (
        numbers(float, heads * dim, 1),
        numbers(float, groups * length * dim, 2),
        numbers(float, groups * length * dim, 3),
    );
    let strides = |head| Strides {
        batch: 0,
        head,
        token: dim,
    };
    let cache = strides(length * dim);
    let call = Attention {
        float,
        batch: 1,
        heads,
        groups,
        tokens: 1,
        length,
        dim,
        value_dim: dim,
        q: Vectors {
            bytes: &q,
            strides: strides(dim),
        },
        k: Vectors {
            bytes: &k,
            strides: cache,
        },
        v: Vectors {
            bytes: &v,
            strides: cache,
        },
        scale: 0.088,
        origins: &[],
        window: None,
        softcap: None,
        sinks: None,
        mask: None,
    };
    let mut out = vec![0; heads * dim * float.nbytes()];
    let mut ours = || attend(tier, &call, &mut out, strides(dim)).expect("the sizes fit");
    let mut plain = || {
        read(&k);
        read(&v);
    };
    let times = both(&mut ours, &mut plain);
    report(
        &format!("{} attention {float:?} S={length}", tier.name()),
        k.len() + v.len(),
        times,
    );
}

/// A product so small that only the call counts.
fn call(tier: Tier) {
    let layout = Layout::Dense(Float::Bf16);
    let q = numbers(Float::Bf16, 64 * 64, 1);
    let parts = Parts {
        q: &q,
        ..Parts::default()
    };
    let weight = Weight::new(&layout, 64, 64, parts).expect("the parts have the sizes");
    let mut out = vec![0; 64 * 2];
    let given = Activations {
        float: Float::Bf16,
        rows: 1,
        cols: 64,
        bytes: &q[..128],
    };
    let time = seconds(&mut || {
        for _ in 0..100_000 {
            let product = Product {
                weight,
                bias: None,
                out: Output::new(&mut out),
                stride: 64,
            };
            products(tier, given, &mut [product]).expect("the sizes fit");
        }
    });
    println!("{} a call of 64 x 64: {:.2} us", tier.name(), time * 10.0);
}

fn main() {
    // `cargo test` runs benches too, to see that they work: without `--bench`, once and small
    if !std::env::args().any(|word| word == "--bench") {
        attention(Tier::best(), Float::F32, 16);
        return;
    }
    let filter = std::env::args()
        .nth(1)
        .filter(|word| !word.starts_with("--"));
    let wants = |name: &str| filter.as_deref().is_none_or(|filter| name.contains(filter));
    let tiers = [Tier::Avx2, Tier::Avx512, Tier::Avx512Bf16, Tier::Neon];
    let tiers: Vec<_> = tiers
        .into_iter()
        .filter(|tier| tier.is_available())
        .collect();
    if wants("read") {
        let bytes = numbers(Float::F32, GIB / 4, 3);
        let mut to = vec![0; GIB];
        copy(&bytes, &mut to);
        let (read, copied) = both(&mut || read(&bytes), &mut || copy(&bytes, &mut to));
        let gb = GIB as f64 / 1e9;
        println!(
            "{} threads: read {:.1} ({:.1}) GB/s, memcpy {:.1} ({:.1}) GB/s",
            team::threads(),
            gb / read.0,
            gb / read.1,
            gb / copied.0,
            gb / copied.1
        );
    }
    if wants("attention") {
        for tier in tiers.iter().copied() {
            for length in [256, 4096, 32768] {
                attention(tier, Float::Bf16, length);
                attention(tier, Float::F16, length);
            }
            attention(tier, Float::F32, 32768);
        }
    }
    if wants("eight") {
        for tier in tiers.iter().copied() {
            product(tier, Float::Bf16, Float::Bf16, 8);
            product(tier, Float::F16, Float::F16, 8);
        }
    }
    if wants("product") {
        let best = Tier::best();
        call(best);
        for rows in [1, 2, 4, 8, 16, 32] {
            product(best, Float::Bf16, Float::Bf16, rows);
        }
        for tier in tiers {
            for rows in [1, 8] {
                product(tier, Float::Bf16, Float::F32, rows);
                product(tier, Float::F16, Float::F16, rows);
                product(tier, Float::F32, Float::F32, rows);
            }
        }
    }
}
