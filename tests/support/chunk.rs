//! Bodies in chunks, as clients read them off the wire.

/// Takes the first chunk out of what has come, when all of it is there; the last one is empty.
#[must_use]
pub(crate) fn take(buffer: &mut Vec<u8>) -> Option<Vec<u8>> {
    let line = buffer.windows(2).position(|two| two == b"\r\n")?;
    let size = usize::from_str_radix(std::str::from_utf8(&buffer[..line]).unwrap(), 16).unwrap();
    let end = line + 2 + size + 2;
    if buffer.len() < end {
        return None;
    }
    let chunk = buffer[line + 2..][..size].to_vec();
    buffer.drain(..end);
    Some(chunk)
}
