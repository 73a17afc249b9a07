//! A request read on the calling thread.

use crate::error::Error;
use crate::io::ReadRequest;
use crate::io::source::Source;
use crate::io::transfer::{Step, Transfer};

/// Read a request to its end.
///
/// # Safety
/// The request's memory is valid and nobody else's meanwhile.
pub(crate) unsafe fn read(source: &Source, request: ReadRequest) -> Result<usize, Error> {
    // SAFETY: the caller's promise.
    if let Some(nbytes) = unsafe { source.read_hot(&request) } {
        return Ok(nbytes);
    }
    let mut transfer = Transfer::new(request);
    let result = loop {
        let (ptr, nbytes) = (transfer.ptr(), transfer.nbytes());
        // SAFETY: a part of the request's memory.
        let ended = unsafe { source.read_at(ptr, nbytes, transfer.offset()) };
        if ended
            .as_ref()
            .is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock)
        {
            std::thread::yield_now();
        }
        match transfer.advance(ended, source.alignment, source) {
            Step::Read => {}
            Step::Done(nbytes) => break Ok(nbytes),
            Step::Failed(error) => break Err(error),
        }
    };
    source.leave(request.offset, request.buffer.nbytes);
    result
}
