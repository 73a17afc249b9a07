//! A file of a store is ordinary safetensors, whose tensors are aligned.

use std::collections::BTreeMap;

use proptest::prelude::*;
use safetensors::SafeTensors;

use airllm_rs::checkpoint::header::Header;
use airllm_rs::dtype::Dtype;
use airllm_rs::store::format::{Layout, PAD, Placed, TENSOR_ALIGNMENT, UNIT_ALIGNMENT, lay_out};

fn placed(name: &str, items: u64, starts_unit: bool) -> Placed {
    Placed {
        name: name.to_owned(),
        dtype: Dtype::U8,
        shape: vec![items],
        starts_unit,
    }
}

fn file(layout: &Layout) -> Vec<u8> {
    let mut file = layout.header.clone();
    file.resize(layout.nbytes as usize, 0);
    file
}

proptest! {
    #[test]
    fn what_is_laid_out_is_read_by_the_safetensors_library(
        sizes in prop::collection::vec((0_u64..9000, any::<bool>()), 0..8),
    ) {
        let tensors: Vec<_> = sizes
            .iter()
            .enumerate()
            .map(|(n, &(nbytes, starts_unit))| placed(&format!("t\"{n}"), nbytes, starts_unit))
            .collect();
        let metadata = BTreeMap::from([("key".to_owned(), "a \"value\"\n".to_owned())]);
        let layout = lay_out(&tensors, &metadata).unwrap();
        let file = file(&layout);
        let start = file.as_ptr() as usize;
        prop_assert_eq!(layout.header.len() as u64 % UNIT_ALIGNMENT, 0);
        let theirs = SafeTensors::deserialize(&file).unwrap();
        for (tensor, &offset) in tensors.iter().zip(&layout.offsets) {
            let alignment = if tensor.starts_unit { UNIT_ALIGNMENT } else { TENSOR_ALIGNMENT };
            prop_assert_eq!(offset % alignment, 0);
            let view = theirs.tensor(&tensor.name).unwrap();
            prop_assert_eq!(view.data().len() as u64, tensor.shape[0]);
            if !view.data().is_empty() {
                prop_assert_eq!((view.data().as_ptr() as usize - start) as u64, offset);
            }
        }
        prop_assert_eq!(theirs.len(), tensors.len() + layout.pads.len());
        let ours = Header::parse(&file, layout.nbytes).unwrap();
        prop_assert_eq!(ours.metadata, metadata);
        for &(offset, nbytes) in &layout.pads {
            prop_assert!(nbytes < UNIT_ALIGNMENT);
            prop_assert!(ours.tensors.iter().any(|pad| pad.name.starts_with(PAD)
                && pad.extent.offset == offset && pad.extent.nbytes == nbytes));
        }
    }
}

#[test]
fn names_that_are_taken_and_sizes_that_do_not_exist_are_refused() {
    let none = BTreeMap::new();
    let error = lay_out(&[placed("__pad__.0", 1, false)], &none).unwrap_err();
    assert_eq!(error.to_string(), "tensor \"__pad__.0\": the name is taken");
    let twice = ["x.q", "y", "x.q"].map(|name| placed(name, 1, false));
    let error = lay_out(&twice, &none).unwrap_err();
    assert_eq!(
        error.to_string(),
        "tensor \"x.q\": another tensor of the file has this name"
    );
    let huge = ["a", "b", "c", "d"].map(|name| placed(name, 1 << 60, false));
    let error = lay_out(&huge, &none).unwrap_err();
    assert_eq!(
        error.to_string(),
        "tensor \"d\": the file would have no size"
    );
}
