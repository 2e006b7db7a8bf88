//! The notation of scenarios.
//!
//! A scenario begins with `# name`; `start key=value` adds to its start-up packet. Every other line
//! is a frame, and an indented line goes out together with the one above. After each such step the
//! client reads as many ReadyForQuery as the step has messages that bring one, or up to the messages
//! that `await` names (`await G`, `await end`). `loose` compares of errors only severity and SQLSTATE.
//!
//! ```text
//! Q text                          P name text             P:23,25 name text
//! B portal statement values...    B:1 ... (binary results)    E portal [rows]
//! D S name   D P name             C S name   C P name     S   H
//! F oid values...                 d data     c   f reason     raw 51 00 00
//! ```
//! A name `-` is empty, a value `NULL` is NULL, `\n`, `\t` and `\\` are escapes, `_` in a value is a
//! space, and `{BIG}` is a million letters.

use std::path::Path;

use bytes::{BufMut, Bytes, BytesMut};

use crate::wire::frame;

const FILES: &[&str] = &[
    "simple",
    "transactions",
    "settings",
    "prepared",
    "pipelines",
    "copy",
    "state",
    "odd",
    "broken",
];

/// One scenario.
#[derive(Debug, Default)]
pub struct Scenario {
    pub name: String,
    pub start: Vec<(String, String)>,
    pub loose: bool,
    pub steps: Vec<Step>,
}

/// What is sent at once, and what is awaited then.
#[derive(Debug, Default)]
pub struct Step {
    pub text: String,
    pub bytes: BytesMut,
    pub awaits: Await,
}

/// Where the answer to a step ends.
#[derive(Debug, PartialEq, Eq)]
pub enum Await {
    /// With so many ReadyForQuery.
    Ready(usize),
    /// With messages of these types, in this order, whatever is between them.
    Kinds(Vec<u8>),
    /// With the connection.
    End,
}

impl Default for Await {
    fn default() -> Self {
        Self::Ready(0)
    }
}

/// Every scenario of every file.
pub fn all() -> Vec<Scenario> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("integration/differential");
    let read = |name: &&str| std::fs::read_to_string(folder.join(name).with_extension("txt"));
    FILES.iter().flat_map(|name| parse(&read(name).unwrap())).collect()
}

pub fn parse(file: &str) -> Vec<Scenario> {
    let mut found: Vec<Scenario> = Vec::new();
    for line in file.lines().filter(|line| !line.trim().is_empty()) {
        if let Some(name) = line.strip_prefix("# ") {
            found.push(Scenario { name: name.to_owned(), ..Default::default() });
            continue;
        }
        let Some(scenario) = found.last_mut() else { continue };
        let (indented, line) = (line.starts_with(' '), line.trim_start());
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        match word {
            "loose" => scenario.loose = true,
            "start" => {
                let (key, value) = rest.split_once('=').expect("start key=value");
                scenario.start.push((key.to_owned(), value.to_owned()));
            }
            "await" => {
                let step = scenario.steps.last_mut().expect("await follows a step");
                step.awaits = match rest {
                    "end" => Await::End,
                    kinds => Await::Kinds(kinds.bytes().filter(|kind| *kind != b' ').collect()),
                };
            }
            _ => {
                if !indented {
                    scenario.steps.push(Step::default());
                }
                let step = scenario.steps.last_mut().expect("a step is begun");
                step.text.push_str(if indented { "; " } else { "" });
                step.text.push_str(line);
                step.bytes.extend_from_slice(&message(word, rest));
                if let (b'Q' | b'S' | b'F', Await::Ready(count)) =
                    (word.as_bytes()[0], &mut step.awaits)
                {
                    *count += 1;
                }
            }
        }
    }
    found
}

fn unescape(text: &str) -> Vec<u8> {
    let text = text.replace("{BIG}", &"abcdefghij".repeat(100_000));
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        out.push(match byte {
            b'\\' => match bytes.next() {
                Some(b'n') => b'\n',
                Some(b't') => b'\t',
                other => other.unwrap_or(b'\\'),
            },
            byte => byte,
        });
    }
    out
}

fn name(word: &str) -> &str {
    if word == "-" { "" } else { word }
}

fn put_text(body: &mut BytesMut, text: &[u8]) {
    body.put_slice(text);
    body.put_u8(0);
}

/// A count and so many values with their lengths.
fn put_values<'a>(body: &mut BytesMut, values: impl Iterator<Item = &'a str>) {
    let values: Vec<&str> = values.collect();
    body.put_u16(u16::try_from(values.len()).unwrap());
    for value in values {
        if value == "NULL" {
            body.put_i32(-1);
        } else {
            let value = unescape(&value.replace('_', " "));
            body.put_u32(u32::try_from(value.len()).unwrap());
            body.put_slice(&value);
        }
    }
}

fn message(word: &str, rest: &str) -> Bytes {
    let (kind, option) = word.split_once(':').unwrap_or((word, ""));
    let mut words = rest.split(' ').filter(|word| !word.is_empty());
    let mut body = BytesMut::new();
    match kind {
        "raw" => {
            return words.map(|hex| u8::from_str_radix(hex, 16).unwrap()).collect();
        }
        "Q" => put_text(&mut body, &unescape(rest)),
        "P" => {
            let (statement, text) = rest.split_once(' ').unwrap_or((rest, ""));
            put_text(&mut body, name(statement).as_bytes());
            put_text(&mut body, &unescape(text));
            let types: Vec<u32> =
                option.split(',').filter_map(|number| number.parse().ok()).collect();
            body.put_u16(u16::try_from(types.len()).unwrap());
            for oid in types {
                body.put_u32(oid);
            }
        }
        "B" => {
            for _ in 0..2 {
                put_text(&mut body, name(words.next().unwrap_or("-")).as_bytes());
            }
            body.put_u16(0);
            put_values(&mut body, words);
            match option.parse::<u16>() {
                Ok(format) => {
                    body.put_slice(&[0, 1, format.to_be_bytes()[0], format.to_be_bytes()[1]]);
                }
                Err(_) => body.put_u16(0),
            }
        }
        "E" => {
            put_text(&mut body, name(words.next().unwrap_or("-")).as_bytes());
            body.put_u32(words.next().map_or(0, |rows| rows.parse().unwrap()));
        }
        "D" | "C" => {
            body.put_slice(words.next().unwrap().as_bytes());
            put_text(&mut body, name(words.next().unwrap_or("-")).as_bytes());
        }
        "F" => {
            body.put_u32(words.next().unwrap().parse().unwrap());
            body.put_u16(0);
            put_values(&mut body, words);
            body.put_u16(0);
        }
        "d" => body.put_slice(&unescape(rest)),
        "f" => put_text(&mut body, rest.as_bytes()),
        "S" | "H" | "c" => {}
        other => panic!("no such frame: {other}"),
    }
    frame(kind.as_bytes()[0], &body)
}
