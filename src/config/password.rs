//! Passwords: given in the file, in a file of their own, or in the environment.

use std::path::Path;

use base64::Engine as _;

use super::error::Complaint;
use super::reader::{Reader, Span};
use super::settings::{Secret, UserPassword};
use super::value::Key;

/// The three ways to give a password.
pub(super) struct PasswordKeys {
    pub(super) plain: Key<Secret>,
    pub(super) file: Key<String>,
    pub(super) env: Key<String>,
}

impl Reader<'_> {
    /// The password that one of the three keys gives, with the place of that key.
    pub(super) fn password(
        &mut self,
        section: &str,
        keys: PasswordKeys,
    ) -> Option<(UserPassword, Span)> {
        let given = [&keys.plain.span, &keys.file.span, &keys.env.span];
        let key = |suffix: &str| format!("{section}.password{suffix}");
        if given.iter().filter(|span| span.is_some()).count() > 1 {
            let last = given.into_iter().rev().find_map(Clone::clone);
            self.complain(&key(""), &last, Complaint::SeveralPasswords);
            return None;
        }
        let span = given.into_iter().find_map(Clone::clone);
        let (name, text) = if keys.plain.value.is_some() {
            (key(""), self.optional(&key(""), keys.plain)?.expose().to_owned())
        } else if keys.file.value.is_some() {
            let path = self.base_dir.join(self.optional(&key("_file"), keys.file)?);
            match read_first_line(&path) {
                Ok(text) => (key("_file"), text),
                Err(complaint) => {
                    self.complain(&key("_file"), &span, complaint);
                    return None;
                }
            }
        } else {
            let name = self.optional(&key("_env"), keys.env)?;
            let text = (self.environment)(&name).filter(|text| !text.is_empty());
            let Some(text) = text else {
                self.complain(&key("_env"), &span, Complaint::PasswordVariable { name });
                return None;
            };
            (key("_env"), text)
        };
        if is_md5(&text) {
            return Some((UserPassword::Md5(Secret::new(text)), span));
        }
        if !text.starts_with("SCRAM-SHA-256$") {
            return Some((UserPassword::Plain(Secret::new(text)), span));
        }
        if !is_scram_verifier(&text) {
            self.complain(&name, &span, Complaint::NotAVerifier);
            return None;
        }
        Some((UserPassword::Verifier(Secret::new(text)), span))
    }
}

fn read_first_line(path: &Path) -> Result<String, Complaint> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| Complaint::PasswordFile { path: path.to_owned(), source })?;
    match text.lines().next() {
        Some(line) if !line.is_empty() => Ok(line.to_owned()),
        _ => Err(Complaint::PasswordFileEmpty { path: path.to_owned() }),
    }
}

/// PostgreSQL `get_password_type`: a password that looks like a hash is one.
fn is_md5(text: &str) -> bool {
    let digits = text.strip_prefix("md5");
    digits.is_some_and(|digits| {
        digits.len() == 32 && digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    })
}

/// PostgreSQL `parse_scram_secret` (`src/backend/libpq/auth-scram.c`), by shape.
fn is_scram_verifier(text: &str) -> bool {
    let base64 = |part: &str, bytes: Option<usize>| {
        base64::engine::general_purpose::STANDARD
            .decode(part)
            .is_ok_and(|decoded| bytes.is_none_or(|bytes| decoded.len() == bytes))
    };
    let check = || {
        let mut parts = text.strip_prefix("SCRAM-SHA-256$")?.split('$');
        let (iterations, salt) = parts.next()?.split_once(':')?;
        let (stored, server) = parts.next()?.split_once(':')?;
        let iterations = iterations.parse::<u32>().ok()?;
        (parts.next().is_none()
            && iterations > 0
            && base64(salt, None)
            && base64(stored, Some(32))
            && base64(server, Some(32)))
        .then_some(())
    };
    check().is_some()
}
