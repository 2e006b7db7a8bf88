//! The first words of a statement as a command tag would name it.

use super::scan::Kind;
use super::tokens::Tokens;

/// The kinds of object that CREATE, ALTER and DROP know, longest first where one begins another.
const OBJECTS: [(&[&str], [&str; 3]); 45] = [
    (&["access", "method"], ["CREATE ACCESS METHOD", "ALTER ACCESS METHOD", "DROP ACCESS METHOD"]),
    (&["aggregate"], ["CREATE AGGREGATE", "ALTER AGGREGATE", "DROP AGGREGATE"]),
    (&["cast"], ["CREATE CAST", "ALTER CAST", "DROP CAST"]),
    (&["collation"], ["CREATE COLLATION", "ALTER COLLATION", "DROP COLLATION"]),
    (&["constraint", "trigger"], ["CREATE TRIGGER", "ALTER TRIGGER", "DROP TRIGGER"]),
    (&["conversion"], ["CREATE CONVERSION", "ALTER CONVERSION", "DROP CONVERSION"]),
    (&["database"], ["CREATE DATABASE", "ALTER DATABASE", "DROP DATABASE"]),
    (&["default", "privileges"], ["CREATE", "ALTER DEFAULT PRIVILEGES", "DROP"]),
    (&["default", "conversion"], ["CREATE CONVERSION", "ALTER CONVERSION", "DROP CONVERSION"]),
    (&["domain"], ["CREATE DOMAIN", "ALTER DOMAIN", "DROP DOMAIN"]),
    (&["event", "trigger"], ["CREATE EVENT TRIGGER", "ALTER EVENT TRIGGER", "DROP EVENT TRIGGER"]),
    (&["extension"], ["CREATE EXTENSION", "ALTER EXTENSION", "DROP EXTENSION"]),
    (
        &["foreign", "data", "wrapper"],
        ["CREATE FOREIGN DATA WRAPPER", "ALTER FOREIGN DATA WRAPPER", "DROP FOREIGN DATA WRAPPER"],
    ),
    (&["foreign", "table"], ["CREATE FOREIGN TABLE", "ALTER FOREIGN TABLE", "DROP FOREIGN TABLE"]),
    (&["function"], ["CREATE FUNCTION", "ALTER FUNCTION", "DROP FUNCTION"]),
    (&["group"], ["CREATE ROLE", "ALTER ROLE", "DROP ROLE"]),
    (&["index"], ["CREATE INDEX", "ALTER INDEX", "DROP INDEX"]),
    (&["language"], ["CREATE LANGUAGE", "ALTER LANGUAGE", "DROP LANGUAGE"]),
    (&["large", "object"], ["CREATE", "ALTER LARGE OBJECT", "DROP"]),
    (
        &["materialized", "view"],
        ["CREATE MATERIALIZED VIEW", "ALTER MATERIALIZED VIEW", "DROP MATERIALIZED VIEW"],
    ),
    (
        &["operator", "class"],
        ["CREATE OPERATOR CLASS", "ALTER OPERATOR CLASS", "DROP OPERATOR CLASS"],
    ),
    (
        &["operator", "family"],
        ["CREATE OPERATOR FAMILY", "ALTER OPERATOR FAMILY", "DROP OPERATOR FAMILY"],
    ),
    (&["operator"], ["CREATE OPERATOR", "ALTER OPERATOR", "DROP OPERATOR"]),
    (&["owned"], ["CREATE", "ALTER", "DROP OWNED"]),
    (&["policy"], ["CREATE POLICY", "ALTER POLICY", "DROP POLICY"]),
    (&["procedure"], ["CREATE PROCEDURE", "ALTER PROCEDURE", "DROP PROCEDURE"]),
    (&["publication"], ["CREATE PUBLICATION", "ALTER PUBLICATION", "DROP PUBLICATION"]),
    (&["role"], ["CREATE ROLE", "ALTER ROLE", "DROP ROLE"]),
    (&["routine"], ["CREATE", "ALTER ROUTINE", "DROP ROUTINE"]),
    (&["rule"], ["CREATE RULE", "ALTER RULE", "DROP RULE"]),
    (&["schema"], ["CREATE SCHEMA", "ALTER SCHEMA", "DROP SCHEMA"]),
    (&["sequence"], ["CREATE SEQUENCE", "ALTER SEQUENCE", "DROP SEQUENCE"]),
    (&["server"], ["CREATE SERVER", "ALTER SERVER", "DROP SERVER"]),
    (&["statistics"], ["CREATE STATISTICS", "ALTER STATISTICS", "DROP STATISTICS"]),
    (&["subscription"], ["CREATE SUBSCRIPTION", "ALTER SUBSCRIPTION", "DROP SUBSCRIPTION"]),
    (&["system"], ["CREATE", "ALTER SYSTEM", "DROP"]),
    (&["table"], ["CREATE TABLE", "ALTER TABLE", "DROP TABLE"]),
    (&["tablespace"], ["CREATE TABLESPACE", "ALTER TABLESPACE", "DROP TABLESPACE"]),
    (&["text", "search"], ["CREATE TEXT SEARCH", "ALTER TEXT SEARCH", "DROP TEXT SEARCH"]),
    (&["transform"], ["CREATE TRANSFORM", "ALTER", "DROP TRANSFORM"]),
    (&["trigger"], ["CREATE TRIGGER", "ALTER TRIGGER", "DROP TRIGGER"]),
    (&["type"], ["CREATE TYPE", "ALTER TYPE", "DROP TYPE"]),
    (&["user", "mapping"], ["CREATE USER MAPPING", "ALTER USER MAPPING", "DROP USER MAPPING"]),
    (&["user"], ["CREATE ROLE", "ALTER ROLE", "DROP ROLE"]),
    (&["view"], ["CREATE VIEW", "ALTER VIEW", "DROP VIEW"]),
];

/// Words between CREATE and the kind of object.
const MODIFIERS: [&[u8]; 11] = [
    b"or",
    b"replace",
    b"temp",
    b"temporary",
    b"local",
    b"global",
    b"unlogged",
    b"unique",
    b"recursive",
    b"trusted",
    b"procedural",
];

/// The commands whose tag is one or two fixed words.
const COMMANDS: [(&str, &str); 22] = [
    ("insert", "INSERT"),
    ("update", "UPDATE"),
    ("delete", "DELETE"),
    ("merge", "MERGE"),
    ("truncate", "TRUNCATE TABLE"),
    ("do", "DO"),
    ("call", "CALL"),
    ("lock", "LOCK TABLE"),
    ("vacuum", "VACUUM"),
    ("analyze", "ANALYZE"),
    ("analyse", "ANALYZE"),
    ("cluster", "CLUSTER"),
    ("reindex", "REINDEX"),
    ("checkpoint", "CHECKPOINT"),
    ("refresh", "REFRESH MATERIALIZED VIEW"),
    ("repack", "REPACK"),
    ("comment", "COMMENT"),
    ("grant", "GRANT"),
    ("revoke", "REVOKE"),
    ("security", "SECURITY LABEL"),
    ("import", "IMPORT FOREIGN SCHEMA"),
    ("reassign", "REASSIGN OWNED"),
];

/// The verb of a statement that begins as a query does: what follows its CTEs.
pub fn of_query(tokens: Tokens<'_>) -> &'static str {
    let mut depth = 0_usize;
    for (at, token) in tokens.list.iter().enumerate() {
        match token.kind {
            Kind::Open => depth += 1,
            Kind::Close => depth = depth.saturating_sub(1),
            Kind::Word if depth == 0 => match tokens.word(at) {
                b"select" => return "SELECT",
                b"values" => return "VALUES",
                b"table" => return "TABLE",
                b"insert" if tokens.word(at + 1) == b"into" => return "INSERT",
                b"merge" if tokens.word(at + 1) == b"into" => return "MERGE",
                b"delete" if tokens.word(at + 1) == b"from" => return "DELETE",
                // Only after the body of a CTE: elsewhere the word may name a column.
                b"update" if at > 0 && tokens.kind(at - 1) == Some(Kind::Close) => return "UPDATE",
                _ => {}
            },
            _ => {}
        }
    }
    "SELECT"
}

/// The verb of any other command; empty if there is none of that name.
pub fn of_command(tokens: Tokens<'_>) -> &'static str {
    let column = match tokens.word(0) {
        b"create" => 0,
        b"alter" => 1,
        b"drop" => 2,
        word => {
            let known = COMMANDS.iter().find(|(name, _)| name.as_bytes() == word);
            return known.map_or("", |(_, verb)| verb);
        }
    };
    let mut at = 1;
    while MODIFIERS.contains(&tokens.word(at)) {
        at += 1;
    }
    let matches = |words: &[&str]| {
        words.iter().enumerate().all(|(offset, word)| tokens.word(at + offset) == word.as_bytes())
    };
    OBJECTS
        .iter()
        .find(|(words, _)| matches(words))
        .map_or(["CREATE", "ALTER", "DROP"][column], |(_, verbs)| verbs[column])
}
