//! Long texts are read away from the worker: the facts of a megabyte take milliseconds, in which
//! nobody else on the worker would be served.
//!
//! What was read is kept until the session's next request, so that the machine, which asks for the
//! same facts again when the request has ended, finds them.

use std::sync::Arc;

use bytes::Bytes;

use super::fields::parse_fields;
use crate::protocol::request::{End, Request};
use crate::sql::statement::Lexis;
use crate::sql::{Script, ScriptCache};

/// Texts up to this many bytes are read where they are met: in some hundred microseconds.
const LONG: usize = 64 << 10;

/// The long texts of a request, with their facts.
#[derive(Debug, Default)]
pub struct Studied {
    texts: Vec<(Bytes, Lexis, Arc<Script>)>,
}

impl Studied {
    /// The facts of this text, if it is one of them.
    #[must_use]
    pub fn of(&self, text: &[u8], lexis: Lexis) -> Option<Arc<Script>> {
        let mut texts = self.texts.iter();
        let found = texts.find(|(known, under, _)| *under == lexis && known[..] == *text)?;
        Some(Arc::clone(&found.2))
    }

    /// Forgets the last request's texts and reads those of this one, up to `limit` bytes each.
    ///
    /// # Cancel safety
    /// Safe: what is not read here, the machine reads itself.
    pub async fn study(
        &mut self,
        request: &Request,
        buffer: &[u8],
        lexis: Lexis,
        limit: usize,
        scripts: &Arc<ScriptCache>,
    ) {
        self.texts.clear();
        if request.length > LONG && matches!(request.end, End::Query | End::Sync | End::Flush) {
            Box::pin(self.read(request, buffer, lexis, limit, scripts)).await;
        }
    }

    async fn read(
        &mut self,
        request: &Request,
        buffer: &[u8],
        lexis: Lexis,
        limit: usize,
        scripts: &Arc<ScriptCache>,
    ) {
        let texts = request.frames.iter().filter_map(|frame| {
            let body = frame.body(buffer);
            match frame.kind {
                b'Q' => Some(body.strip_suffix(b"\0").unwrap_or(body)),
                b'P' => parse_fields(body).map(|(_, text, _)| text),
                _ => None,
            }
        });
        for text in texts.filter(|text| (LONG + 1..=limit).contains(&text.len())) {
            let text = Bytes::copy_from_slice(text);
            let (scripts, copy) = (Arc::clone(scripts), text.clone());
            let read = tokio::task::spawn_blocking(move || scripts.script(&copy, lexis));
            if let Ok(script) = read.await {
                self.texts.push((text, lexis, script));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::request::{Indexer, Limits};

    #[tokio::test]
    async fn only_long_texts_are_read_ahead() {
        let long = format!("select {}1", "a + ".repeat(LONG));
        let scripts = Arc::new(ScriptCache::new(16));
        let mut studied = Studied::default();
        for (text, is_long) in [(long.as_str(), true), ("select 1", false)] {
            let mut buffer = vec![b'Q'];
            buffer.extend_from_slice(&u32::try_from(text.len() + 5).unwrap().to_be_bytes());
            buffer.extend_from_slice(text.as_bytes());
            buffer.push(0);
            let limits = Limits { message: 1 << 30, pipeline: 1 << 20, statement: 1 << 20 };
            let request = Indexer::default().index(&buffer, &limits).unwrap().unwrap();
            studied.study(&request, &buffer, Lexis::default(), limits.statement, &scripts).await;
            let found = studied.of(text.as_bytes(), Lexis::default());
            assert_eq!(found.is_some(), is_long);
            if let Some(script) = found {
                assert_eq!(script.statements.len(), 1);
            }
            let other = Lexis { standard_conforming_strings: false };
            assert!(studied.of(text.as_bytes(), other).is_none());
        }
        assert!(
            studied.of(long.as_bytes(), Lexis::default()).is_none(),
            "the next request forgets"
        );
    }
}
