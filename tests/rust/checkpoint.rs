//! Headers and indexes are read right, or refused with file, offset and reason.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use proptest::prelude::*;
use safetensors::SafeTensors;
use safetensors::tensor::TensorView;
use tempfile::{TempDir, tempdir};

use airllm_rs::checkpoint::header::{Header, HeaderError, MAX_HEADER_NBYTES};
use airllm_rs::checkpoint::{Checkpoint, index};
use airllm_rs::dtype::Dtype;
use airllm_rs::error::{Error, HeaderFault, IndexFault};

// A file with this JSON and so much data.
fn file(json: &str, data_nbytes: usize) -> Vec<u8> {
    let mut file = (json.len() as u64).to_le_bytes().to_vec();
    file.extend(json.as_bytes());
    file.resize(file.len() + data_nbytes, 0);
    file
}

fn parse(file: &[u8]) -> Result<Header, HeaderError> {
    Header::parse(file, file.len() as u64)
}

fn fault(json: &str, data_nbytes: usize) -> HeaderFault {
    parse(&file(json, data_nbytes)).unwrap_err().fault
}

fn tensor(name: &str, dtype: &str, shape: &str, begin: u64, end: u64) -> String {
    format!(
        "\"{name}\":{{\"dtype\":\"{dtype}\",\"shape\":{shape},\"data_offsets\":[{begin},{end}]}}"
    )
}

fn header(tensors: &[String]) -> String {
    format!("{{{}}}", tensors.join(","))
}

fn directory(files: &[(&str, &[u8])]) -> TempDir {
    let directory = tempdir().unwrap();
    for (name, bytes) in files {
        let path = directory.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
    directory
}

fn open(path: &Path) -> Result<Checkpoint, Error> {
    Checkpoint::open(path)
}

#[test]
fn tensors_come_in_the_order_of_the_file_with_absolute_offsets() {
    let json = header(&[
        tensor("b", "F32", "[2]", 4, 12),
        tensor("a", "BF16", "[1,2]", 0, 4),
    ]);
    let directory = directory(&[("model.safetensors", &file(&json, 12))]);
    let checkpoint = open(directory.path()).unwrap();
    let names: Vec<_> = checkpoint
        .tensors()
        .iter()
        .map(|tensor| tensor.name.as_str())
        .collect();
    assert_eq!(names, ["a", "b"]);
    let b = checkpoint.tensor("b").unwrap();
    assert_eq!((b.dtype, b.shape.as_slice()), (Dtype::F32, &[2][..]));
    assert_eq!(
        (b.extent.offset, b.extent.nbytes),
        (8 + json.len() as u64 + 4, 8)
    );
    assert!(checkpoint.tensor("c").is_none());
    assert!(checkpoint.files()[0].is_absolute());
}

#[test]
fn metadata_padding_and_empty_tensors_are_accepted() {
    let json = format!(
        "{{\"__metadata__\":{{\"format\":\"pt\"}},{},{},{}}}   ",
        tensor("none", "F32", "[0,7]", 0, 0),
        tensor("a", "U8", "[3]", 0, 3),
        tensor("last", "I64", "[0]", 3, 3),
    );
    let header = parse(&file(&json, 3)).unwrap();
    assert_eq!(header.metadata["format"], "pt");
    let names: Vec<_> = header
        .tensors
        .iter()
        .map(|tensor| tensor.name.as_str())
        .collect();
    assert_eq!(names, ["none", "a", "last"]);
    assert_eq!(parse(&file("{}", 0)).unwrap(), Header::default());
    assert_eq!(
        parse(&file("{\"__metadata__\":null}", 0)).unwrap(),
        Header::default()
    );
}

#[test]
fn what_a_header_contradicts_is_named() {
    let a = || tensor("a", "U8", "[4]", 0, 4);
    let name = || "b".to_owned();
    assert_eq!(
        fault(&header(&[a(), tensor("b", "U8", "[4]", 3, 7)]), 7),
        HeaderFault::Overlap {
            tensor: name(),
            begin: 3,
            end: 4
        }
    );
    assert_eq!(
        fault(&header(&[a(), tensor("b", "U8", "[4]", 5, 9)]), 9),
        HeaderFault::Hole {
            tensor: name(),
            begin: 5,
            end: 4
        }
    );
    assert_eq!(
        fault(&header(&[tensor("b", "F32", "[3]", 0, 8)]), 8),
        HeaderFault::Length {
            tensor: name(),
            expected: 12,
            found: 8
        }
    );
    assert_eq!(
        fault(&header(&[tensor("b", "U8", "[4]", 4, 0)]), 4),
        HeaderFault::Backwards {
            tensor: name(),
            begin: 4,
            end: 0
        }
    );
    assert_eq!(
        fault(&header(&[tensor("b", "X9", "[4]", 0, 4)]), 4),
        HeaderFault::Dtype {
            tensor: name(),
            code: "X9".to_owned()
        }
    );
    assert_eq!(
        fault(&header(&[tensor("b", "F4", "[3]", 0, 2)]), 2),
        HeaderFault::Shape {
            tensor: name(),
            shape: vec![3],
            bits: 4
        }
    );
    let huge = u64::MAX;
    let overflowing = tensor("b", "F64", &format!("[{huge},{huge}]"), 0, huge);
    assert!(matches!(
        fault(&header(&[overflowing]), 0),
        HeaderFault::Shape { .. }
    ));
    let far = tensor("b", "U8", &format!("[{}]", huge / 8), 0, huge / 8);
    assert!(matches!(
        fault(&header(&[far]), 0),
        HeaderFault::Size { .. }
    ));
    assert!(matches!(
        fault(&header(&[a()]), 3),
        HeaderFault::Size { expected, found } if expected == found + 1
    ));
    assert!(matches!(
        fault(&header(&[a()]), 5),
        HeaderFault::Size { expected, found } if expected + 1 == found
    ));
    assert!(matches!(
        fault(&header(&[a(), a()]), 4),
        HeaderFault::NotJson { .. }
    ));
    assert!(matches!(fault("[]", 0), HeaderFault::NotJson { .. }));
    assert!(matches!(
        fault("{\"a\":{}}", 0),
        HeaderFault::NotJson { .. }
    ));
}

#[test]
fn a_header_that_cannot_be_there_is_refused_before_it_is_read() {
    assert_eq!(
        parse(&[1, 0, 0]).unwrap_err().fault,
        HeaderFault::NoLength { found: 3 }
    );
    let lying = (MAX_HEADER_NBYTES + 1).to_le_bytes();
    assert!(matches!(
        parse(&lying).unwrap_err().fault,
        HeaderFault::TooLong { .. }
    ));
    let cut = parse(&file("{}", 0)[..9]).unwrap_err();
    assert_eq!(
        cut.fault,
        HeaderFault::Truncated {
            nbytes: 2,
            found: 1
        }
    );
}

#[test]
fn what_is_no_text_or_no_object_is_refused_even_where_nobody_reads_it() {
    let mut bytes = file(
        r#"{"x": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1], "y": "?"}}"#,
        1,
    );
    let at = bytes.iter().position(|&byte| byte == b'?').unwrap();
    assert!(parse(&bytes).is_ok());
    bytes[at] = 0xff;
    let error = parse(&bytes).unwrap_err();
    assert_eq!(error.offset, at as u64);
    assert!(matches!(error.fault, HeaderFault::NotJson { .. }));
    assert!(index::parse(b"[{}]").is_err());
    assert!(index::parse(b"{\"weight_map\": {}, \"y\": \"?\"}").is_ok());
    assert!(index::parse(b"{\"weight_map\": {}, \"y\": \"\xff\"}").is_err());
}

#[test]
fn the_offset_of_an_error_lies_where_the_error_is() {
    let json = "{\n  \"a\": {\n    \"dtype\": 5}}";
    let error = parse(&file(json, 0)).unwrap_err();
    let there = 8 + json.find('5').unwrap() as u64;
    assert!(error.offset.abs_diff(there) <= 1, "{error:?}");

    let json = header(&[
        tensor("a", "U8", "[4]", 0, 4),
        tensor("b", "U8", "[4]", 3, 7),
    ]);
    let error = parse(&file(&json, 7)).unwrap_err();
    assert_eq!(error.offset, 8 + json.len() as u64 + 3);
}

#[test]
fn a_file_cut_off_anywhere_is_an_error_that_names_it() {
    let whole = file(&header(&[tensor("a", "F32", "[2]", 0, 8)]), 8);
    for nbytes in 0..whole.len() {
        let directory = directory(&[("model.safetensors", &whole[..nbytes])]);
        let error = open(directory.path()).unwrap_err();
        assert!(matches!(error, Error::Header { .. }));
        let message = error.to_string();
        assert!(
            message.contains("model.safetensors: at offset "),
            "{message}"
        );
        assert!(!message.ends_with('.'));
    }
}

#[test]
fn an_index_joins_files_and_decides_where_a_tensor_comes_from() {
    let first = file(
        &header(&[
            tensor("a", "U8", "[4]", 0, 4),
            tensor("b", "U8", "[2]", 4, 6),
        ]),
        6,
    );
    let second = file(&header(&[tensor("b", "U8", "[2]", 0, 2)]), 2);
    let index = br#"{"metadata":{"total_size":6},"weight_map":{"b":"z.safetensors","a":"sub/y.safetensors"}}"#;
    let directory = directory(&[
        ("model.safetensors.index.json", index),
        ("sub/y.safetensors", &first),
        ("z.safetensors", &second),
    ]);
    for path in [
        directory.path().to_owned(),
        directory.path().join("model.safetensors.index.json"),
    ] {
        let checkpoint = open(&path).unwrap();
        let found: Vec<_> = checkpoint
            .tensors()
            .iter()
            .map(|tensor| (tensor.name.as_str(), tensor.extent.file))
            .collect();
        assert_eq!(found, [("a", 0), ("b", 1)]);
        assert!(checkpoint.files()[1].ends_with("z.safetensors"));
    }
}

#[test]
fn an_index_that_names_what_is_not_there_is_an_error() {
    let only = file(&header(&[tensor("a", "U8", "[4]", 0, 4)]), 4);
    let error = |map: &str| {
        let index = format!("{{\"weight_map\":{map}}}");
        let directory = directory(&[
            ("model.safetensors.index.json", index.as_bytes()),
            ("x.safetensors", &only),
        ]);
        match open(directory.path()).unwrap_err() {
            Error::Index { fault, .. } => fault,
            other => panic!("{other}"),
        }
    };
    assert!(matches!(
        error(r#"{"a":"y.safetensors"}"#),
        IndexFault::MissingFile { .. }
    ));
    assert!(matches!(
        error(r#"{"b":"x.safetensors"}"#),
        IndexFault::MissingTensor { .. }
    ));
    for escape in [
        "../x.safetensors",
        "/etc/passwd",
        "",
        "a/../../x",
        ".",
        "a\\\\..\\\\x",
        "a\\u0000",
    ] {
        let map = format!("{{\"a\":\"{escape}\"}}");
        assert!(
            matches!(error(&map), IndexFault::Escape { .. }),
            "{escape:?}"
        );
    }
    assert!(matches!(
        error(r#"{"a":"x.safetensors","a":"y.safetensors"}"#),
        IndexFault::NotJson { .. }
    ));
    assert!(matches!(error("[]"), IndexFault::NotJson { .. }));
}

#[test]
fn a_path_without_a_checkpoint_says_what_is_expected() {
    let empty = directory(&[]);
    let error = open(empty.path()).unwrap_err();
    assert!(matches!(error, Error::NoCheckpoint { .. }));
    assert!(error.to_string().contains("model.safetensors.index.json"));
    assert!(matches!(
        open(&empty.path().join("absent")),
        Err(Error::Open { .. })
    ));
    // A directory in the place of a file.
    fs::create_dir(empty.path().join("model.safetensors")).unwrap();
    assert!(matches!(open(empty.path()), Err(Error::Open { .. })));
}

fn oracle_dtype(dtype: Dtype) -> safetensors::Dtype {
    serde_json::from_str(&format!("{:?}", dtype.code())).unwrap()
}

prop_compose! {
    fn tensors()(
        kinds in prop::collection::vec((0..Dtype::ALL.len(), prop::collection::vec(0..5_u64, 0..4)), 0..8),
    ) -> Vec<(String, Dtype, Vec<u64>, Vec<u8>)> {
        kinds.into_iter().enumerate().filter_map(|(number, (dtype, shape))| {
            let dtype = Dtype::ALL[dtype];
            let nbytes = dtype.nbytes(&shape).ok()?;
            let data = (0..nbytes).map(|at| (at * 7 + number as u64) as u8).collect();
            Some((format!("t{number}"), dtype, shape, data))
        }).collect()
    }
}

fn serialized(tensors: &[(String, Dtype, Vec<u64>, Vec<u8>)]) -> Vec<u8> {
    let views = tensors.iter().map(|(name, dtype, shape, data)| {
        let shape = shape.iter().map(|&side| side as usize).collect();
        (
            name.as_str(),
            TensorView::new(oracle_dtype(*dtype), shape, data).unwrap(),
        )
    });
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    safetensors::serialize(views, Some(metadata)).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn files_of_the_safetensors_crate_are_read_as_it_reads_them(tensors in tensors()) {
        let bytes = serialized(&tensors);
        let header = parse(&bytes).unwrap();
        prop_assert_eq!(header.tensors.len(), tensors.len());
        prop_assert_eq!(&header.metadata["format"], "pt");
        for (name, dtype, shape, data) in &tensors {
            let found = header.tensors.iter().find(|tensor| tensor.name == *name).unwrap();
            prop_assert_eq!((found.dtype, &found.shape), (*dtype, shape));
            let start = found.extent.offset as usize;
            prop_assert_eq!(&bytes[start..start + found.extent.nbytes as usize], data.as_slice());
        }
    }

    #[test]
    fn what_is_accepted_the_safetensors_crate_accepts(
        tensors in tensors(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let mut bytes = serialized(&tensors);
        for (at, byte) in changes {
            // Printable bytes hit more of the parser.
            let at = at.index(bytes.len());
            bytes[at] = if at < 8 { byte } else { 32 + byte % 95 };
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        if let Ok(header) = parse(&bytes) {
            let theirs = SafeTensors::deserialize(&bytes).unwrap();
            prop_assert_eq!(theirs.len(), header.tensors.len());
        }
    }

    #[test]
    fn random_bytes_never_panic(json in prop::collection::vec(any::<u8>(), 0..200), lie in 0..3_u64) {
        let mut bytes = (json.len() as u64 + lie).to_le_bytes().to_vec();
        bytes.extend(&json);
        let _ = parse(&bytes);
        let _ = index::parse(&json);
    }

    #[test]
    fn random_headers_never_panic(
        entries in prop::collection::vec((".{0,3}", "[A-Z0-9_]{1,4}", any::<[u64; 3]>()), 0..5),
    ) {
        let entries: Vec<_> = entries.iter().map(|(name, dtype, [side, begin, end])| {
            let name = serde_json::to_string(name).unwrap();
            tensor(name.trim_matches('"'), dtype, &format!("[{side}]"), *begin, *end)
        }).collect();
        let _ = parse(&file(&header(&entries), 9));
    }
}
