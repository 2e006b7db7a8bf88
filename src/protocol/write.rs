//! The messages that Causeway itself writes, each appended whole to a buffer.

use bytes::{BufMut, BytesMut};

/// Fills in the length field at `start` so that it covers itself and all that follows.
///
/// # Panics
/// If the message is longer than the protocol allows (2 GiB): our own messages are small.
pub fn set_length(out: &mut BytesMut, start: usize) {
    let length = i32::try_from(out.len() - start).expect("our own messages are small");
    out[start..start + 4].copy_from_slice(&length.to_be_bytes());
}

/// Appends one message: its type, its length, and the body that `fill` writes.
pub fn message(out: &mut BytesMut, kind: u8, fill: impl FnOnce(&mut BytesMut)) {
    out.put_u8(kind);
    let start = out.len();
    out.put_u32(0);
    fill(out);
    set_length(out, start);
}

/// Appends a NUL-terminated string. A NUL inside ends it early, as a reader would see it.
pub fn cstr(out: &mut BytesMut, text: &[u8]) {
    let end = memchr::memchr(0, text).unwrap_or(text.len());
    out.put_slice(&text[..end]);
    out.put_u8(0);
}

/// `ReadyForQuery` with the transaction status `I`, `T` or `E`.
pub fn ready_for_query(out: &mut BytesMut, status: u8) {
    message(out, b'Z', |body| body.put_u8(status));
}

/// `CommandComplete` with its tag.
pub fn command_complete(out: &mut BytesMut, tag: &str) {
    message(out, b'C', |body| cstr(body, tag.as_bytes()));
}

/// `ParameterStatus`.
pub fn parameter_status(out: &mut BytesMut, name: &[u8], value: &[u8]) {
    message(out, b'S', |body| {
        cstr(body, name);
        cstr(body, value);
    });
}

/// `BackendKeyData`; the key is 4 bytes in protocol 3.0 and up to 256 in 3.2.
pub fn backend_key_data(out: &mut BytesMut, process_id: i32, key: &[u8]) {
    message(out, b'K', |body| {
        body.put_i32(process_id);
        body.put_slice(key);
    });
}

/// A simple `Query`.
pub fn query(out: &mut BytesMut, text: &[u8]) {
    message(out, b'Q', |body| cstr(body, text));
}

/// `Parse` of a named statement with its parameter type OIDs.
pub fn parse(out: &mut BytesMut, name: &[u8], text: &[u8], parameter_types: &[u8]) {
    message(out, b'P', |body| {
        cstr(body, name);
        cstr(body, text);
        body.put_slice(parameter_types);
    });
}

/// Parse, Bind, Execute and Close of a statement without parameters, under a name for both the
/// statement and the portal. Both are closed again, and before, for an error may have left them.
pub fn run(out: &mut BytesMut, name: &[u8], text: &[u8]) {
    run_with(out, name, (text, &[0, 0]), &[0; 6]);
}

/// The same of a statement with parameters: the text with the end of its Parse (parameter types), and
/// the end of a Bind behind its names (formats, values, result formats).
pub fn run_with(
    out: &mut BytesMut,
    name: &[u8],
    (text, parameter_types): (&[u8], &[u8]),
    values: &[u8],
) {
    close_statement(out, name);
    parse(out, name, text, parameter_types);
    message(out, b'B', |body| {
        cstr(body, name);
        cstr(body, name);
        body.put_slice(values);
    });
    message(out, b'E', |body| {
        cstr(body, name);
        body.put_u32(0);
    });
    for kind in *b"PS" {
        message(out, b'C', |body| {
            body.put_u8(kind);
            cstr(body, name);
        });
    }
}

/// `Close` of a prepared statement.
pub fn close_statement(out: &mut BytesMut, name: &[u8]) {
    message(out, b'C', |body| {
        body.put_u8(b'S');
        cstr(body, name);
    });
}

/// `Flush`.
pub fn flush(out: &mut BytesMut) {
    out.put_slice(&[b'H', 0, 0, 0, 4]);
}

/// `Sync`.
pub fn sync(out: &mut BytesMut) {
    out.put_slice(&[b'S', 0, 0, 0, 4]);
}

/// `Terminate`.
pub const TERMINATE: [u8; 5] = [b'X', 0, 0, 0, 4];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_cover_all_but_the_type() {
        let mut out = BytesMut::new();
        ready_for_query(&mut out, b'T');
        assert_eq!(&out[..], b"Z\0\0\0\x05T");
        out.clear();
        command_complete(&mut out, "BEGIN");
        assert_eq!(&out[..], b"C\0\0\0\x0aBEGIN\0");
        out.clear();
        query(&mut out, b"select 1\0hidden");
        assert_eq!(&out[..], b"Q\0\0\0\x0dselect 1\0");
    }
}
