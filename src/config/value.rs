//! One value of the file: what it may be written as, and what it becomes.
//!
//! Reading a value never fails the whole file: a [`Key`] keeps either the value or the complaint
//! about it, so that all complaints can be told at once.

use std::ops::Range;
use std::time::Duration;

use serde::{Deserialize, Deserializer};
use toml::{Spanned, Value};

use super::error::Complaint;
use super::settings::Secret;

/// The longest name of a role or a database, in bytes.
const NAME_BYTES: usize = 63;

/// A key of the file: absent, read, or wrong.
#[derive(Debug)]
pub struct Key<T> {
    pub(super) value: Option<Result<T, Complaint>>,
    pub(super) span: Option<Range<usize>>,
}

impl<T> Default for Key<T> {
    fn default() -> Self {
        Self { value: None, span: None }
    }
}

impl<'de, T: FromValue> Deserialize<'de> for Key<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = Spanned::<Value>::deserialize(deserializer)?;
        let span = spanned.span();
        Ok(Self { value: Some(T::from_value(spanned.into_inner())), span: Some(span) })
    }
}

/// What a TOML value can become.
pub trait FromValue: Sized {
    /// Reads the value.
    ///
    /// # Errors
    /// What is wrong with it, without the place.
    fn from_value(value: Value) -> Result<Self, Complaint>;
}

/// A number of bytes; written with its unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bytes(pub u64);

/// One string, or a list of them; at least one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OneOrMany(pub Vec<String>);

/// An enum of the settings that the file names by one word.
pub trait Word: Sized + Copy + 'static {
    /// Every word with its meaning.
    const WORDS: &'static [(&'static str, Self)];
}

/// A [`Word`] as the file gives it.
#[derive(Debug, Clone, Copy)]
pub struct OneOf<T>(pub T);

fn wrong_type(wanted: &'static str, value: &Value) -> Complaint {
    let found = match value {
        Value::String(_) => "a string",
        Value::Integer(_) => "a number",
        Value::Float(_) => "a number with a fraction",
        Value::Boolean(_) => "true or false",
        Value::Datetime(_) => "a date",
        Value::Array(_) => "a list",
        Value::Table(_) => "a table",
    };
    Complaint::WrongType { wanted, found }
}

impl FromValue for String {
    fn from_value(value: Value) -> Result<Self, Complaint> {
        match value {
            Value::String(text) if text.trim().is_empty() => Err(Complaint::Empty),
            Value::String(text) => Ok(text),
            other => Err(wrong_type("a string", &other)),
        }
    }
}

impl FromValue for Secret {
    fn from_value(value: Value) -> Result<Self, Complaint> {
        String::from_value(value).map(Self::new)
    }
}

/// A name cut to what PostgreSQL keeps of it (`NAMEDATALEN - 1` bytes), as those of logins are.
pub(super) fn cut_name(mut name: String) -> String {
    let mut end = name.len().min(NAME_BYTES);
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    name.truncate(end);
    name
}

impl FromValue for bool {
    fn from_value(value: Value) -> Result<Self, Complaint> {
        match value {
            Value::Boolean(flag) => Ok(flag),
            other => Err(wrong_type("true or false", &other)),
        }
    }
}

impl FromValue for u64 {
    fn from_value(value: Value) -> Result<Self, Complaint> {
        match &value {
            Value::Integer(number) => {
                u64::try_from(*number).map_err(|_| wrong_type("a number of zero or more", &value))
            }
            _ => Err(wrong_type("a plain number", &value)),
        }
    }
}

impl FromValue for Duration {
    fn from_value(value: Value) -> Result<Self, Complaint> {
        match value {
            Value::String(text) if is_bare_number(&text) => {
                Err(Complaint::TimeWithoutUnit { number: text.trim().to_owned() })
            }
            Value::String(text) => {
                humantime::parse_duration(&text).map_err(|_| Complaint::NotATime { text })
            }
            Value::Integer(number) => {
                Err(Complaint::TimeWithoutUnit { number: number.to_string() })
            }
            Value::Float(number) => Err(Complaint::TimeWithoutUnit { number: number.to_string() }),
            other => Err(wrong_type("a time such as \"250ms\"", &other)),
        }
    }
}

impl FromValue for Bytes {
    fn from_value(value: Value) -> Result<Self, Complaint> {
        match value {
            Value::String(text) if is_bare_number(&text) => {
                Err(Complaint::SizeWithoutUnit { number: text.trim().to_owned() })
            }
            Value::String(text) => match text.trim().parse::<bytesize::ByteSize>() {
                Ok(size) => Ok(Self(size.as_u64())),
                Err(_) => Err(Complaint::NotASize { text }),
            },
            Value::Integer(number) => {
                Err(Complaint::SizeWithoutUnit { number: number.to_string() })
            }
            Value::Float(number) => Err(Complaint::SizeWithoutUnit { number: number.to_string() }),
            other => Err(wrong_type("a size such as \"16MB\"", &other)),
        }
    }
}

fn is_bare_number(text: &str) -> bool {
    let text = text.trim();
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.')
}

impl FromValue for Vec<String> {
    fn from_value(value: Value) -> Result<Self, Complaint> {
        match value {
            Value::Array(items) => items.into_iter().map(String::from_value).collect(),
            other => Err(wrong_type("a list of strings", &other)),
        }
    }
}

impl FromValue for OneOrMany {
    fn from_value(value: Value) -> Result<Self, Complaint> {
        let many = match value {
            Value::String(_) => vec![String::from_value(value)?],
            Value::Array(_) => Vec::from_value(value)?,
            other => return Err(wrong_type("a string or a list of strings", &other)),
        };
        if many.is_empty() { Err(Complaint::Empty) } else { Ok(Self(many)) }
    }
}

impl<T: Word> FromValue for OneOf<T> {
    fn from_value(value: Value) -> Result<Self, Complaint> {
        let text = String::from_value(value)?;
        match T::WORDS.iter().find(|(word, _)| *word == text) {
            Some((_, meaning)) => Ok(Self(*meaning)),
            None => Err(Complaint::NotOneOf {
                text,
                names: T::WORDS.iter().map(|(word, _)| *word).collect(),
            }),
        }
    }
}
