//! `search_path`: which schemas an unqualified name is looked for in
//! (`src/backend/catalog/namespace.c`).

/// A search path, resolved against one catalog.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SearchPath {
    /// The schemas in order, as numbers of the catalog; schemas that do not exist are left out.
    pub(super) schemas: Vec<u16>,
    /// The path could not be read: a name may be found in any schema.
    pub(super) anywhere: bool,
}

/// The elements of a path as SET or the configuration file has it (`SplitIdentifierString`):
/// quoted elements as they are, others folded to lower case. `None` if it is not a list of names.
#[must_use]
pub fn elements(path: &str) -> Option<Vec<String>> {
    let mut found = Vec::new();
    let mut rest = path.trim_start();
    if rest.is_empty() {
        return Some(found);
    }
    loop {
        let (element, after) = if let Some(quoted) = rest.strip_prefix('"') {
            quoted_element(quoted)?
        } else {
            bare_element(rest)?
        };
        found.push(element);
        rest = after.trim_start();
        match rest.strip_prefix(',') {
            Some(more) => rest = more.trim_start(),
            None => return rest.is_empty().then_some(found),
        }
    }
}

fn quoted_element(text: &str) -> Option<(String, &str)> {
    let mut element = String::new();
    let mut rest = text;
    loop {
        let (part, after) = rest.split_once('"')?;
        element.push_str(part);
        rest = after;
        match rest.strip_prefix('"') {
            Some(more) => {
                element.push('"');
                rest = more;
            }
            None => return Some((element, rest)),
        }
    }
}

fn bare_element(text: &str) -> Option<(String, &str)> {
    let end = text.find(|c: char| c == ',' || c.is_whitespace()).unwrap_or(text.len());
    let (element, rest) = text.split_at(end);
    (!element.is_empty() && !element.contains('"')).then(|| (element.to_lowercase(), rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_paths_as_postgresql_does() {
        let read = |path| elements(path).map(|list| list.join("|"));
        assert_eq!(read("\"$user\", public").as_deref(), Some("$user|public"));
        assert_eq!(read(" A , \"B\"\"c\" ").as_deref(), Some("a|B\"c"));
        assert_eq!(read("").as_deref(), Some(""));
        assert_eq!(read("\"\"").as_deref(), Some(""));
        for bad in ["a b", ",", "a,", "\"open", "a\"b"] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }
}
