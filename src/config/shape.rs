//! Finds keys that the shape of [`super::file`] does not have, and names the nearest one.

use std::ops::Range;

use serde::de::{DeserializeOwned, Deserializer, Visitor};
use toml::de::{DeTable, DeValue};

use super::error::{Complaint, ConfigError, Problem, line_of};
use super::file::{
    AccessTable, AuthQuerySection, CertificateNameTable, ClusterSection, File, LimitsSection,
    MonitorSection, NodeTable, NodeTlsSection, PoolSection, ProxySection, RoutingSection,
    RuleTable, TlsSection, UserTable,
};

/// One table of the file.
#[derive(Debug, Clone, Copy)]
pub struct Table {
    /// Its path: `cluster.node`; empty for the file itself.
    pub path: &'static str,
    /// Whether there may be several, written `[[path]]`.
    pub repeated: bool,
    /// Its keys, those of tables inside it included.
    pub keys: &'static [&'static str],
}

/// Every table that the file may have, the file itself first.
#[must_use]
pub fn tables() -> [Table; 15] {
    let one = |path, keys| Table { path, repeated: false, keys };
    let many = |path, keys| Table { path, repeated: true, keys };
    [
        one("", keys::<File>()),
        one("proxy", keys::<ProxySection>()),
        one("cluster", keys::<ClusterSection>()),
        many("cluster.node", keys::<NodeTable>()),
        one("monitor", keys::<MonitorSection>()),
        one("pool", keys::<PoolSection>()),
        one("routing", keys::<RoutingSection>()),
        many("routing.rule", keys::<RuleTable>()),
        one("limits", keys::<LimitsSection>()),
        one("tls", keys::<TlsSection>()),
        many("tls.name", keys::<CertificateNameTable>()),
        one("node_tls", keys::<NodeTlsSection>()),
        many("access", keys::<AccessTable>()),
        one("auth_query", keys::<AuthQuerySection>()),
        many("user", keys::<UserTable>()),
    ]
}

/// The keys that the file has and the shape has not, and tables that are something else.
///
/// # Errors
/// When the text is not TOML.
pub fn unknown_keys(text: &str) -> Result<Vec<Problem>, ConfigError> {
    let file = DeTable::parse(text).map_err(|error| ConfigError::syntax(text, &error))?;
    let mut walk = Walk { text, tables: tables(), problems: Vec::new() };
    walk.table("", file.get_ref());
    Ok(walk.problems)
}

struct Walk<'a> {
    text: &'a str,
    tables: [Table; 15],
    problems: Vec<Problem>,
}

impl Walk<'_> {
    fn table(&mut self, path: &str, found: &DeTable<'_>) {
        let Some(shape) = self.tables.iter().copied().find(|table| table.path == path) else {
            return;
        };
        for (key, value) in found {
            let name = key.get_ref().as_ref();
            let inner = if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
            if !shape.keys.contains(&name) {
                let complaint = self.nearest(&shape, name);
                self.complain(&key.span(), inner, complaint);
            } else if let Some(table) =
                self.tables.iter().copied().find(|table| table.path == inner)
            {
                self.inner(&table, &value.span(), value.get_ref());
            }
        }
    }

    fn inner(&mut self, table: &Table, span: &Range<usize>, value: &DeValue<'_>) {
        let name = table.path.to_owned();
        match value {
            DeValue::Table(found) if !table.repeated => self.table(table.path, found),
            DeValue::Array(items) if table.repeated => {
                for item in items {
                    match item.get_ref() {
                        DeValue::Table(found) => self.table(table.path, found),
                        _ => self.complain(
                            &item.span(),
                            name.clone(),
                            Complaint::NotTables { name: name.clone() },
                        ),
                    }
                }
            }
            _ if table.repeated => {
                self.complain(span, name.clone(), Complaint::NotTables { name });
            }
            _ => self.complain(span, name.clone(), Complaint::NotATable { name }),
        }
    }

    fn nearest(&self, shape: &Table, name: &str) -> Complaint {
        let elsewhere = || self.tables.iter().find(|table| table.keys.contains(&name));
        let near = shape
            .keys
            .iter()
            .map(|key| (strsim::jaro_winkler(key, &name.to_ascii_lowercase()), *key))
            .max_by(|a, b| a.0.total_cmp(&b.0));
        match near {
            Some((likeness, nearest)) if likeness >= 0.8 => Complaint::UnknownNear { nearest },
            _ => match elsewhere() {
                Some(table) => Complaint::UnknownHere { section: table.path },
                None => Complaint::Unknown { known: shape.keys },
            },
        }
    }

    fn complain(&mut self, span: &Range<usize>, key: String, complaint: Complaint) {
        self.problems.push(Problem { line: Some(line_of(self.text, span)), key, complaint });
    }
}

/// The names of a struct's fields, as its `Deserialize` asks for them.
fn keys<T: DeserializeOwned>() -> &'static [&'static str] {
    let mut keys: &'static [&'static str] = &[];
    // The answer is in `keys`; the deserializer itself never yields a value.
    let _ = T::deserialize(Fields(&mut keys));
    keys
}

struct Fields<'a>(&'a mut &'static [&'static str]);

impl<'de> Deserializer<'de> for Fields<'_> {
    type Error = serde::de::value::Error;

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Self::Error> {
        *self.0 = fields;
        self.deserialize_any(visitor)
    }

    fn deserialize_any<V: Visitor<'de>>(self, _visitor: V) -> Result<V::Value, Self::Error> {
        Err(serde::de::Error::custom("only the names are asked for"))
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 u8 u16 u32 u64 f32 f64 char str string bytes byte_buf option unit
        unit_struct newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}
