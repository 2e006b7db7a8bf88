//! SET, RESET, SHOW and DISCARD in every spelling, and the value of a SET.
//!
//! Follows `VariableSetStmt`, `VariableResetStmt`, `VariableShowStmt` and `DiscardStmt` of
//! `gram.y`. Names of settings are in lower case, as `PostgreSQL` does not tell their case apart.

use super::scan::{Kind, Scanner, Token};
use super::statement::{Lexis, SessionEffect, Transaction};
use super::tokens::{Cursor, Tokens};
use super::transaction::modes;

/// What a SET statement is.
#[derive(Debug, PartialEq, Eq)]
pub enum Set {
    /// Of a setting.
    Setting(SettingHead),
    /// Of transaction modes.
    Transaction(Transaction),
    /// SET CONSTRAINTS.
    Constraints,
}

/// A SET of one setting, up to its value.
#[derive(Debug, PartialEq, Eq)]
pub struct SettingHead {
    /// The setting, lower case.
    pub name: Box<str>,
    /// SET LOCAL.
    pub local: bool,
    /// How the value is written.
    pub form: Form,
    /// The value is DEFAULT (or what means it).
    pub to_default: bool,
    /// Index of the value's first token; past the end if there is none.
    pub value: usize,
}

/// In which clause a value stands, and so how it has to be written again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// `SET name TO value`, for which every other spelling but one has an equal.
    Plain,
    /// `SET TIME ZONE value`, which takes an INTERVAL.
    TimeZone,
    /// `SET name FROM CURRENT`, which changes nothing outside of CREATE FUNCTION.
    FromCurrent,
}

/// Reads a statement that begins with SET; nothing if it is not right.
pub fn read_set(cursor: &mut Cursor<'_>) -> Option<Set> {
    if !cursor.eat("set") {
        return None;
    }
    if cursor.eat("constraints") {
        return Some(Set::Constraints);
    }
    if cursor.eat_all(&["session", "characteristics", "as", "transaction"]) {
        return Some(Set::Transaction(Transaction::SetCharacteristics(modes(cursor))));
    }
    let scope =
        if is_assignment(cursor, cursor.at + 1) { b"" } else { cursor.tokens.word(cursor.at) };
    let local = scope == b"local";
    // SET SESSION AUTHORIZATION has the word as its own, not as a scope.
    let scoped =
        local || scope == b"session" && cursor.tokens.word(cursor.at + 1) != b"authorization";
    cursor.at += usize::from(scoped);
    if cursor.tokens.word(cursor.at) == b"transaction" && !is_assignment(cursor, cursor.at + 1) {
        cursor.at += 1;
        if cursor.eat("snapshot") {
            cursor.eat_kind(Kind::String);
            return Some(Set::Transaction(Transaction::SetSnapshot));
        }
        return Some(Set::Transaction(Transaction::Set(modes(cursor))));
    }
    read_setting(cursor, local).map(Set::Setting)
}

/// `name TO value`, or a clause with a syntax of its own.
fn read_setting(cursor: &mut Cursor<'_>, local: bool) -> Option<SettingHead> {
    let head = |name: &str, form, to_default, value| {
        Some(SettingHead { name: name.into(), local, form, to_default, value })
    };
    if !is_assignment(cursor, cursor.at + 1)
        && let Some((name, form)) = special_clause(cursor)
    {
        let value = cursor.at;
        let word = cursor.tokens.word(value);
        let to_default = match name {
            "timezone" => matches!(word, b"default" | b"local"),
            "client_encoding" => cursor.is_done() || word == b"default",
            _ => word == b"default",
        };
        return head(name, form, to_default, value);
    }
    let name = setting_name(cursor)?;
    if cursor.eat_all(&["from", "current"]) {
        return cursor.is_done().then(|| head(&name, Form::FromCurrent, false, cursor.at))?;
    }
    if !cursor.eat("to") {
        if !cursor.tokens.is_operator(cursor.at, b"=") {
            return None;
        }
        cursor.at += 1;
    }
    if cursor.is_done() {
        return None;
    }
    head(&name, Form::Plain, cursor.tokens.word(cursor.at) == b"default", cursor.at)
}

/// The settings that SET, RESET and SHOW know by words of their own.
fn special_clause(cursor: &mut Cursor<'_>) -> Option<(&'static str, Form)> {
    const CLAUSES: [(&[&str], &str, Form); 7] = [
        (&["time", "zone"], "timezone", Form::TimeZone),
        (&["session", "authorization"], "session_authorization", Form::Plain),
        (&["xml", "option"], "xmloption", Form::Plain),
        (&["names"], "client_encoding", Form::Plain),
        (&["schema"], "search_path", Form::Plain),
        (&["role"], "role", Form::Plain),
        (&["catalog"], "catalog", Form::Plain),
    ];
    CLAUSES
        .into_iter()
        .find(|(words, ..)| cursor.eat_all(words))
        .map(|(_, name, form)| (name, form))
}

/// Whether what stands at `index` makes the name before it an ordinary setting.
fn is_assignment(cursor: &Cursor<'_>, index: usize) -> bool {
    cursor.tokens.is_operator(index, b"=")
        || cursor.tokens.word(index) == b"to"
        || cursor.tokens.kind(index) == Some(Kind::Dot)
        || (cursor.tokens.word(index) == b"from" && cursor.tokens.word(index + 1) == b"current")
}

/// `a` or `a.b`, in lower case.
fn setting_name(cursor: &mut Cursor<'_>) -> Option<Box<str>> {
    let mut name = cursor.name()?.into_string();
    while cursor.eat_kind(Kind::Dot) {
        name.push('.');
        name.push_str(&cursor.name()?);
    }
    name.make_ascii_lowercase();
    Some(name.into())
}

/// The name after RESET or SHOW.
fn named_setting(cursor: &mut Cursor<'_>) -> Option<Box<str>> {
    if cursor.eat_all(&["time", "zone"]) {
        return Some("timezone".into());
    }
    if cursor.eat_all(&["transaction", "isolation", "level"]) {
        return Some("transaction_isolation".into());
    }
    if cursor.eat_all(&["session", "authorization"]) {
        return Some("session_authorization".into());
    }
    setting_name(cursor)
}

/// Whether a setting is a mode of the transaction under way, which ends with it; `transaction_timeout` is none.
#[must_use]
pub fn is_transaction_mode(name: &str) -> bool {
    matches!(name, "transaction_isolation" | "transaction_read_only" | "transaction_deferrable")
}

/// Reads a statement that begins with RESET.
pub fn read_reset(cursor: &mut Cursor<'_>) -> Option<SessionEffect> {
    if !cursor.eat("reset") {
        return None;
    }
    if cursor.eat("all") {
        return Some(SessionEffect::ResetAll);
    }
    named_setting(cursor).map(SessionEffect::Reset)
}

/// Reads a statement that begins with SHOW; `all` stands for SHOW ALL.
pub fn read_show(cursor: &mut Cursor<'_>) -> Option<Box<str>> {
    cursor.eat("show").then(|| named_setting(cursor))?
}

/// Reads a statement that begins with DISCARD.
pub fn read_discard(cursor: &mut Cursor<'_>) -> Option<(&'static str, SessionEffect)> {
    if !cursor.eat("discard") {
        return None;
    }
    let found = match cursor.tokens.word(cursor.at) {
        b"all" => ("DISCARD ALL", SessionEffect::DiscardAll),
        b"plans" => ("DISCARD PLANS", SessionEffect::DiscardPlans),
        b"sequences" => ("DISCARD SEQUENCES", SessionEffect::DiscardSequences),
        b"temp" | b"temporary" => ("DISCARD TEMP", SessionEffect::DiscardTemp),
        _ => return None,
    };
    cursor.at += 1;
    Some(found)
}

/// One SET of a setting with its value as written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetStatement {
    /// The setting, lower case, named as in [`SessionEffect::Set`].
    pub name: Box<str>,
    /// SET LOCAL.
    pub local: bool,
    /// What it is set to.
    pub value: SetValue,
}

/// The value of a SET.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SetValue {
    /// DEFAULT, in any spelling.
    Default,
    /// The source of the value, or of the list of values, in the client's encoding. Its string
    /// literals mean what they meant only under the same `standard_conforming_strings`.
    Source(Box<[u8]>),
    /// As `Source`, to stand after SET TIME ZONE.
    TimeZone(Box<[u8]>),
}

impl SetStatement {
    /// The statement that sets the same again, for the session or (if `local`) the transaction.
    #[must_use]
    pub fn replay(&self, local: bool) -> Vec<u8> {
        let mut text = Vec::with_capacity(64);
        text.extend_from_slice(if local { b"SET LOCAL " } else { b"SET " });
        if let SetValue::TimeZone(source) = &self.value {
            text.extend_from_slice(b"TIME ZONE ");
            text.extend_from_slice(source);
            return text;
        }
        for (index, part) in self.name.split('.').enumerate() {
            if index > 0 {
                text.push(b'.');
            }
            text.push(b'"');
            text.extend_from_slice(part.replace('"', "\"\"").as_bytes());
            text.push(b'"');
        }
        text.extend_from_slice(b" TO ");
        match &self.value {
            SetValue::Default => text.extend_from_slice(b"DEFAULT"),
            SetValue::Source(source) | SetValue::TimeZone(source) => text.extend_from_slice(source),
        }
        text
    }

    /// The value as one plain string, where it is a single word, number, or string without
    /// escapes: what [`SetStatement::value`] means to settings that are switches or enumerations.
    #[must_use]
    pub fn plain(&self) -> Option<String> {
        let (SetValue::Source(source) | SetValue::TimeZone(source)) = &self.value else {
            return None;
        };
        let mut tokens = Scanner::new(source, Lexis::default());
        let (Some(token), None) = (tokens.next(), tokens.next()) else { return None };
        let text = std::str::from_utf8(&source[token.start..token.end]).ok()?;
        match token.kind {
            Kind::Word => Some(text.to_ascii_lowercase()),
            Kind::Number => Some(text.to_owned()),
            Kind::Quoted => Some(text[1..text.len() - 1].replace("\"\"", "\"")),
            Kind::String if text.starts_with('\'') && !text.contains(['\\', '\n', '\r']) => {
                Some(text[1..text.len() - 1].replace("''", "'"))
            }
            _ => None,
        }
    }
}

/// The setting and the value of a text that is one SET of a setting; nothing for any other text,
/// for `SET ... FROM CURRENT`, and for names written `U&"..."`.
#[must_use]
pub fn set_value(text: &[u8], lexis: Lexis) -> Option<SetStatement> {
    let mut list: Vec<Token> = Scanner::new(text, lexis)
        .filter(|token| token.kind != Kind::Comment)
        .skip_while(|token| token.kind == Kind::Semicolon)
        .collect();
    while list.last().is_some_and(|token| token.kind == Kind::Semicolon) {
        list.pop();
    }
    if list.iter().any(|token| matches!(token.kind, Kind::Semicolon | Kind::Error)) {
        return None;
    }
    // Words are compared in lower case; offsets are the same in both.
    let folded = text.to_ascii_lowercase();
    let mut cursor = Cursor::new(Tokens { text: &folded, list: &list });
    let Set::Setting(head) = read_set(&mut cursor)? else { return None };
    if head.form == Form::FromCurrent {
        return None;
    }
    let value = if head.to_default {
        SetValue::Default
    } else {
        let source: Box<[u8]> = text[list.get(head.value)?.start..list.last()?.end].into();
        match head.form {
            Form::TimeZone => SetValue::TimeZone(source),
            Form::Plain | Form::FromCurrent => SetValue::Source(source),
        }
    };
    Some(SetStatement { name: head.name, local: head.local, value })
}
