//! Dtypes are those of the safetensors crate, with its sizes.

use airllm_rs::dtype::Dtype;
use airllm_rs::error::Error;

#[test]
fn codes_and_sizes_are_those_of_safetensors() {
    for dtype in Dtype::ALL {
        let code = format!("{:?}", dtype.code());
        let theirs: safetensors::Dtype = serde_json::from_str(&code).unwrap();
        assert_eq!(theirs.bitsize(), dtype.bits() as usize, "{dtype}");
        assert_eq!(Dtype::from_code(dtype.code()).unwrap(), dtype);
    }
    assert!(matches!(
        Dtype::from_code("bf16"),
        Err(Error::UnknownDtype { .. })
    ));
}

#[test]
fn items_smaller_than_a_byte_are_counted_in_bits() {
    assert_eq!(Dtype::F4.nbytes(&[3, 2]).unwrap(), 3);
    assert_eq!(Dtype::F6_E2M3.nbytes(&[4]).unwrap(), 3);
    assert!(matches!(
        Dtype::F4.nbytes(&[3]),
        Err(Error::ShapeSize { bits: 4, .. })
    ));
}

#[test]
fn a_size_that_overflows_is_an_error() {
    assert_eq!(Dtype::F32.nbytes(&[]).unwrap(), 4);
    assert_eq!(Dtype::F32.nbytes(&[7, 0]).unwrap(), 0);
    assert!(Dtype::U8.nbytes(&[u64::MAX, 2]).is_err());
    assert!(Dtype::F64.nbytes(&[u64::MAX / 8]).is_err());
}
