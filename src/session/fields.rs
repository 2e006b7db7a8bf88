//! The parts of the extended protocol's messages: of their names only what PostgreSQL keeps.

use crate::protocol::frame;

/// What counts of a name (`NAMEDATALEN`).
pub(super) const NAME_BYTES: usize = 63;

/// The parts of a Parse: name, text, parameter types.
pub(super) fn parse_fields(body: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let (name, rest) = frame::cstr(body)?;
    let (text, types) = frame::cstr(rest)?;
    Some((significant(name), text, types))
}

/// The parts of a Bind: portal, statement, and the rest.
pub(super) fn bind_fields(body: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let (portal, rest) = frame::cstr(body)?;
    let (statement, rest) = frame::cstr(rest)?;
    Some((portal, significant(statement), rest))
}

/// The statement that a Describe or a Close names; `None` if it names a portal.
pub(super) fn statement_named(body: &[u8]) -> Option<&[u8]> {
    let [b'S', rest @ ..] = body else { return None };
    frame::cstr(rest).map(|(name, _)| significant(name))
}

/// What PostgreSQL keeps of a statement's name.
fn significant(name: &[u8]) -> &[u8] {
    &name[..name.len().min(NAME_BYTES)]
}
