//! What the header parser accepts, the safetensors crate accepts and reads the same way.
#![no_main]

use libfuzzer_sys::fuzz_target;
use safetensors::SafeTensors;

use airllm_rs::checkpoint::header::Header;

fuzz_target!(|input: &[u8]| {
    // As it is, which also tries lengths that lie; and as the JSON of a file that has the length
    // right and so many bytes of data.
    check(input);
    if let Some((data_nbytes, json)) = input.split_first_chunk::<2>() {
        let mut file = (json.len() as u64).to_le_bytes().to_vec();
        file.extend(json);
        file.resize(file.len() + usize::from(u16::from_le_bytes(*data_nbytes)), 0);
        check(&file);
    }
});

fn check(file: &[u8]) {
    let file_nbytes = file.len() as u64;
    let Ok(header) = Header::parse(file, file_nbytes) else {
        return;
    };
    let theirs = SafeTensors::deserialize(file).expect("they accept what we accept");
    assert_eq!(theirs.len(), header.tensors.len());
    let mut end = 0;
    for tensor in &header.tensors {
        let found = theirs.tensor(&tensor.name).expect("they have every tensor");
        let shape: Vec<_> = found.shape().iter().map(|&side| side as u64).collect();
        assert_eq!(shape, tensor.shape);
        let name = format!("{:?}", found.dtype()).replace('_', "");
        assert_eq!(name, tensor.dtype.code().replace('_', ""));
        let start = found.data().as_ptr().addr() - file.as_ptr().addr();
        let extent = tensor.extent;
        // Where one without bytes lies is nobody's business.
        assert!(extent.nbytes == 0 || start as u64 == extent.offset);
        assert_eq!(found.data().len() as u64, extent.nbytes);
        assert!(extent.offset >= end && extent.offset + extent.nbytes <= file_nbytes);
        end = extent.offset + extent.nbytes;
    }
}
