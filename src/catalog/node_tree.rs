//! What a stored parse tree names (`pg_node_tree`: views, policies, defaults, checks).
//!
//! `pg_depend` leaves out everything that came with initdb, so a view over `pg_advisory_lock` has
//! no row there. The tree itself names all: the reader walks `:field value` pairs of
//! `nodeToString`'s output (`src/backend/nodes/outfuncs.c`) and keeps the object ids of the fields
//! that reach something. Strings in a tree have their blanks escaped, so no literal looks like a field.

/// A PostgreSQL object id.
pub type Oid = u32;

/// The objects that a tree names, each once, sorted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct References {
    /// Functions: called, behind operators, aggregates, window functions, casts.
    pub functions: Vec<Oid>,
    /// Relations read.
    pub relations: Vec<Oid>,
    /// Types that something is coerced to.
    pub types: Vec<Oid>,
    /// Whether a row lock is in it.
    pub row_lock: bool,
}

impl References {
    /// Reads a tree's text.
    #[must_use]
    pub fn read(tree: &str) -> Self {
        let mut found = Self::default();
        let bytes = tree.as_bytes();
        for colon in memchr::memchr_iter(b':', bytes) {
            let field = &bytes[colon + 1..];
            let Some(blank) = field.iter().take(24).position(|byte| *byte == b' ') else {
                continue;
            };
            let (name, value) = (&field[..blank], &field[blank + 1..]);
            match name {
                b"funcid" | b"opfuncid" | b"aggfnoid" | b"winfnoid" | b"hashfuncid"
                | b"negfuncid" => push(&mut found.functions, value),
                b"relid" => push(&mut found.relations, value),
                b"resulttype" => push(&mut found.types, value),
                b"hasForUpdate" => found.row_lock |= value.starts_with(b"true"),
                _ => {}
            }
        }
        for list in [&mut found.functions, &mut found.relations, &mut found.types] {
            list.sort_unstable();
            list.dedup();
            list.shrink_to_fit();
        }
        found
    }
}

/// Appends the number that `value` begins with, unless it is zero (PostgreSQL's `InvalidOid`).
fn push(list: &mut Vec<Oid>, value: &[u8]) {
    let digits = value.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let number = std::str::from_utf8(&value[..digits]).ok().and_then(|text| text.parse().ok());
    if let Some(oid) = number
        && oid != 0
    {
        list.push(oid);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_what_a_tree_names() {
        let tree = "({QUERY :hasForUpdate true :rtable ({RANGETBLENTRY :relid 22437 :relkind v} \
                    {RANGETBLENTRY :relid 7}) :quals {OPEXPR :opno 96 :opfuncid 65 :args ({FUNCEXPR \
                    :funcid 1574 :args ({CONST :constvalue \\:funcid\\ 99})} {COERCETODOMAIN \
                    :resulttype 555} {AGGREF :aggfnoid 2108} {X :funcid 0} {Y :funcid 1574})}";
        let found = References::read(tree);
        assert_eq!(found.functions, [65, 1574, 2108]);
        assert_eq!(found.relations, [7, 22437]);
        assert_eq!(found.types, [555]);
        assert!(found.row_lock);
        assert_eq!(References::read(":hasForUpdate false :funcid"), References::default());
    }
}
