//! Hints in comments: `/* causeway: replica, max_lag=500ms */`, and the sqlcommenter form
//! `/*causeway='replica',traceparent='00-...'*/` with URL-encoded values.
//!
//! What is not understood is left out: a comment can make nothing fail. Of several hints that
//! disagree the strictest holds.

use super::statement::{Hints, RouteHint};

/// Adds the hints of one comment (with its delimiters), if it has any.
pub fn read(comment: &[u8], hints: &mut Hints) {
    if comment.len() > 4096 || memchr::memmem::find(comment, b"causeway").is_none() {
        return;
    }
    let Some(body) = comment.strip_prefix(b"/*").and_then(|rest| rest.strip_suffix(b"*/")) else {
        return;
    };
    let Ok(body) = std::str::from_utf8(body) else { return };
    let body = body.trim();
    if let Some(list) = body.strip_prefix("causeway:") {
        read_list(list, hints);
        return;
    }
    for (key, value) in sqlcommenter_pairs(body) {
        if key == "causeway" {
            read_list(&url_decoded(value), hints);
        }
    }
}

/// Writes hints in a form of their own, so that texts with different hints have different keys.
pub fn write_key(hints: &Hints, key: &mut Vec<u8>) {
    let Hints { route, max_lag, consistency } = hints;
    if route.is_none() && max_lag.is_none() && consistency.is_none() {
        return;
    }
    key.push(0x02);
    key.push(match route {
        None => b'-',
        Some(RouteHint::Primary) => b'p',
        Some(RouteHint::Replica) => b'r',
    });
    if let Some(lag) = max_lag {
        key.extend_from_slice(&lag.as_nanos().to_le_bytes());
    }
    key.push(0x02);
    key.extend_from_slice(consistency.as_deref().unwrap_or_default().as_bytes());
}

fn read_list(list: &str, hints: &mut Hints) {
    for item in list.split([',', ';']).map(str::trim) {
        match item.split_once('=').map(|(key, value)| (key.trim(), value.trim())) {
            None => match item {
                "primary" => hints.route = Some(RouteHint::Primary),
                "replica" => hints.route = hints.route.or(Some(RouteHint::Replica)),
                _ => {}
            },
            Some(("max_lag", value)) => {
                let lag = humantime::parse_duration(value).ok();
                hints.max_lag = [hints.max_lag, lag].into_iter().flatten().min();
            }
            Some(("consistency", value)) => stricter_consistency(value, hints),
            Some(("route", "primary")) => hints.route = Some(RouteHint::Primary),
            Some(("route", "replica")) => {
                hints.route = hints.route.or(Some(RouteHint::Replica));
            }
            Some(_) => {}
        }
    }
}

fn stricter_consistency(value: &str, hints: &mut Hints) {
    let plain = value.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    if value.is_empty() || value.len() > 32 || !plain {
        return;
    }
    if hints.consistency.as_deref().is_none_or(|known| strictness(value) > strictness(known)) {
        hints.consistency = Some(value.into());
    }
}

fn strictness(level: &str) -> Option<usize> {
    ["eventual", "session", "global", "primary"].iter().position(|known| *known == level)
}

/// `key='value'` pairs; a quote in a value is written `\'`.
fn sqlcommenter_pairs(body: &str) -> impl Iterator<Item = (&str, &str)> {
    let mut rest = body;
    std::iter::from_fn(move || {
        let (key, after) = rest.split_once("='")?;
        let bytes = after.as_bytes();
        let mut end = 0;
        while end < bytes.len() && (bytes[end] != b'\'' || (end > 0 && bytes[end - 1] == b'\\')) {
            end += 1;
        }
        let value = after.get(..end)?;
        rest = after.get(end + 1..).unwrap_or_default();
        Some((key.trim_matches([',', ' ', '\n', '\t']), value))
    })
}

fn url_decoded(value: &str) -> String {
    let bytes = value.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let digits = value.get(at + 1..at + 3).and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match (bytes[at], digits) {
            (b'%', Some(byte)) => {
                decoded.push(byte);
                at += 3;
            }
            (byte, _) => {
                decoded.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::read;
    use crate::sql::statement::{Hints, RouteHint};

    fn of(route: Option<RouteHint>, millis: Option<u64>, consistency: Option<&str>) -> Hints {
        Hints {
            route,
            max_lag: millis.map(Duration::from_millis),
            consistency: consistency.map(Into::into),
        }
    }

    #[test]
    fn hints_are_read_in_both_forms() {
        let (primary, replica) = (Some(RouteHint::Primary), Some(RouteHint::Replica));
        let table = [
            ("/* causeway: primary */", of(primary, None, None)),
            ("/*causeway:replica*/", of(replica, None, None)),
            ("/* causeway: max_lag=500ms */", of(None, Some(500), None)),
            (
                "/* causeway: replica, max_lag = 2s , consistency=global */",
                of(replica, Some(2000), Some("global")),
            ),
            ("/*causeway='primary',key='v'*/", of(primary, None, None)),
            (
                "/*a='it\\'s, causeway',causeway='replica%2Cmax_lag%3D1s'*/",
                of(replica, Some(1000), None),
            ),
            ("/* causeway: replica, primary */", of(primary, None, None)),
            ("/* causeway: max_lag=2s, max_lag=1s, max_lag=3s */", of(None, Some(1000), None)),
            (
                "/* causeway: consistency=session, consistency=eventual */",
                of(None, None, Some("session")),
            ),
            ("/* causeway: nonsense, max_lag=soon, consistency=a b */", of(None, None, None)),
            ("/* talks of causeway: primary */", of(None, None, None)),
            ("-- causeway: primary", of(None, None, None)),
            ("/*causeway='primary", of(None, None, None)),
            ("/*causeway='%zz%4'*/", of(None, None, None)),
        ];
        for (comment, expected) in table {
            let mut hints = Hints::default();
            read(comment.as_bytes(), &mut hints);
            assert_eq!(hints, expected, "{comment}");
        }
    }
}
