//! Reads a database's catalog from a server: one read-only transaction, one snapshot.
//!
//! Needs no privilege that PUBLIC does not have. Trees are read as they arrive and dropped, so
//! that what is held stays small however many views there are.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;

use futures_util::TryStreamExt;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Error, Row};

use super::body::{Body, Words};
use super::custom;
use super::node_tree::{Oid, References};
use super::rows::{Function, Operator, Relation, Rows, Type};

/// A text that stays the same exactly while [`Rows`] would: counts and order-free sums of hashes
/// over what is read below. Row versions (`xmin`) stand for rows whose every change matters;
/// `pg_class` is hashed by content, because much that changes its rows does not matter here.
pub const FINGERPRINT: &str = "\
select concat_ws('.', \
 (select sum(hashtextextended(concat_ws(',', oid, xmin), 0)) from pg_catalog.pg_proc), \
 (select sum(hashtextextended(concat_ws(',', aggfnoid::oid, xmin), 0)) from pg_catalog.pg_aggregate), \
 (select sum(hashtextextended(concat_ws(',', oid, relname, relnamespace, relkind, relpersistence, \
   relrowsecurity), 0)) from pg_catalog.pg_class where relkind in ('r','v','m','f','S','p') and relpersistence <> 't'), \
 (select sum(hashtextextended(concat_ws(',', inhrelid, inhparent, xmin), 0)) from pg_catalog.pg_inherits), \
 (select sum(hashtextextended(concat_ws(',', oid, xmin), 0)) from pg_catalog.pg_rewrite), \
 (select sum(hashtextextended(concat_ws(',', oid, xmin), 0)) from pg_catalog.pg_attrdef), \
 (select sum(hashtextextended(concat_ws(',', oid, xmin), 0)) from pg_catalog.pg_trigger where not tgisinternal), \
 (select sum(hashtextextended(concat_ws(',', oid, xmin), 0)) from pg_catalog.pg_constraint where contype in ('f', 'c')), \
 (select sum(hashtextextended(concat_ws(',', oid, xmin), 0)) from pg_catalog.pg_policy), \
 (select sum(hashtextextended(concat_ws(',', oid, xmin), 0)) from pg_catalog.pg_operator where oid >= 16384), \
 (select sum(hashtextextended(concat_ws(',', oid, xmin), 0)) from pg_catalog.pg_cast where oid >= 16384), \
 (select sum(hashtextextended(concat_ws(',', t.oid, t.xmin), 0)) from pg_catalog.pg_type t \
   left join pg_catalog.pg_class c on c.oid = t.typrelid where t.oid >= 16384 and c.relpersistence is distinct from 't'), \
 (select sum(hashtextextended(concat_ws(',', oid, xmin), 0)) from pg_catalog.pg_constraint where contypid <> 0), \
 (select sum(hashtextextended(concat_ws(',', oid, xmin), 0)) from pg_catalog.pg_namespace where nspname !~ '^pg_(toast_)?temp_'), \
 (select sum(hashtextextended(concat_ws(',', setdatabase, setrole, xmin), 0)) from pg_catalog.pg_db_role_setting), \
 (select reset_val from pg_catalog.pg_settings where name = 'search_path'))";

/// A number that moves whenever rows of the catalogs above are written in this database; constant
/// time, but late by as long as servers keep their counters to themselves (up to ten seconds).
/// It also moves for temporary tables: it says when to compare fingerprints, no more.
pub const WRITES: &str = "\
select coalesce(sum(pg_catalog.pg_stat_get_tuples_inserted(c) + pg_catalog.pg_stat_get_tuples_updated(c) \
 + pg_catalog.pg_stat_get_tuples_deleted(c)), 0)::bigint \
from unnest(array['pg_catalog.pg_proc', 'pg_catalog.pg_aggregate', 'pg_catalog.pg_class', \
 'pg_catalog.pg_inherits', 'pg_catalog.pg_rewrite', 'pg_catalog.pg_attrdef', 'pg_catalog.pg_trigger', 'pg_catalog.pg_policy', 'pg_catalog.pg_operator', \
 'pg_catalog.pg_cast', 'pg_catalog.pg_type', 'pg_catalog.pg_constraint', 'pg_catalog.pg_namespace', \
 'pg_catalog.pg_db_role_setting']::regclass[]) as c";

const BEGIN: &str =
    "begin isolation level repeatable read read only; set local search_path = pg_catalog";

const SCHEMAS: &str =
    "select oid, nspname from pg_namespace where nspname !~ '^pg_(toast_)?temp_' order by oid";

const FUNCTIONS: &str = "\
select p.oid, p.proname, p.pronamespace, p.provolatile = 'v' and p.prokind <> 'a', \
 p.prolang in (12, 13) or exists (select from pg_depend d where d.classid = 'pg_proc'::regclass \
  and d.objid = p.oid and d.deptype = 'e'), \
 p.pronargs, p.pronargdefaults, p.provariadic <> 0, \
 case when p.oid >= 16384 then p.proargtypes::oid[] end, p.proargdefaults::text, \
 case when p.oid >= 16384 and l.lanname in ('sql', 'plpgsql') then \
  case when p.prosqlbody is null then p.prosrc else pg_get_function_sqlbody(p.oid) end end, \
 l.lanname = 'sql' \
from pg_proc p join pg_language l on l.oid = p.prolang \
where p.prokind <> 'p' and p.prorettype not in ('trigger'::regtype, 'event_trigger'::regtype)";

/// The sources that may set custom settings: also of procedures and triggers, which run unnamed.
const SETTING_SOURCES: &str = "\
select source from pg_proc p cross join lateral \
 (select case when p.prosqlbody is null then p.prosrc else pg_get_function_sqlbody(p.oid) end) as s (source) \
where p.oid >= 16384 and (source ilike '%set\\_config%' \
 or source ~* '\\mset\\s+(local\\s+|session\\s+)?(%|\"?[a-z_][a-z0-9_$]*\"?\\.)')";

const AGGREGATES: &str = "\
select aggfnoid::oid, array[aggtransfn::oid, aggfinalfn::oid, aggcombinefn::oid, aggserialfn::oid, \
 aggdeserialfn::oid, aggmtransfn::oid, aggminvtransfn::oid, aggmfinalfn::oid] \
from pg_aggregate where aggfnoid::oid >= 16384";

const RELATIONS: &str = "\
select oid, relname, relnamespace, relkind, relpersistence, reltype from pg_class \
where relkind in ('r','v','m','f','S','p') and relpersistence <> 't' and (oid >= 16384 or relkind = 'v')";

const CHILDREN: &str = "\
select i.inhparent, i.inhrelid from pg_inherits i join pg_class c on c.oid = i.inhrelid \
where c.relkind in ('r','f','p') and c.relpersistence <> 't'";

const VIEWS: &str = "\
select r.ev_class, r.ev_action::text from pg_rewrite r join pg_class c on c.oid = r.ev_class \
where c.relkind = 'v' and c.relpersistence <> 't' and c.oid >= 16384 and r.ev_type = '1'";

const POLICIES: &str = "\
select p.polrelid, p.polqual::text from pg_policy p join pg_class c on c.oid = p.polrelid \
where c.relrowsecurity and p.polcmd in ('r', '*') and p.polqual is not null";

const VIRTUAL_COLUMNS: &str = "\
select d.adrelid, d.adbin::text from pg_attrdef d join pg_attribute a \
 on a.attrelid = d.adrelid and a.attnum = d.adnum where a.attgenerated = 'v'";

const OPERATORS: &str = "\
select o.oprname, o.oprcode::oid, o.oprleft, o.oprright, \
 exists (select from pg_operator s where s.oprname = o.oprname and s.oid < 16384) \
from pg_operator o where o.oid >= 16384 and o.oprcode <> 0";

const CASTS: &str =
    "select castsource, casttarget, castfunc from pg_cast where oid >= 16384 and castfunc <> 0";

const TYPES: &str = "\
select t.oid, t.typname, t.typrelid, case t.typtype when 'd' then t.typbasetype when 'r' then \
 (select rngsubtype from pg_range where rngtypid = t.oid) else t.typelem end \
from pg_type t left join pg_class c on c.oid = t.typrelid \
where t.oid >= 16384 and c.relpersistence is distinct from 't'";

const CHECKS: &str =
    "select contypid, conbin::text from pg_constraint where contypid <> 0 and conbin is not null";

const COLUMNS: &str = "\
select a.attrelid, a.atttypid from pg_attribute a join pg_class c on c.oid = a.attrelid \
where a.atttypid >= 16384 and a.attnum > 0 and c.relkind in ('r','v','m','f','p','c') and c.relpersistence <> 't'";

/// Relations whose rows, when they are written, may move a sequence: by a default when they are
/// inserted, or whatever is done (true) by a trigger, a rule, or a table that follows theirs.
const MOVING: &str = "\
select c.relname, bool_or(x.always) from ( \
 select adrelid as relation, false as always from pg_attrdef \
  where adbin::text ~ ':funcid (1574|1576|1765|[0-9]{5,}) ' \
 union all select attrelid, false from pg_attribute where attidentity <> '' \
 union all select a.attrelid, false from pg_attribute a join pg_type t on t.oid = a.atttypid \
  where t.typdefaultbin is not null \
 union all select tgrelid, true from pg_trigger where not tgisinternal \
 union all select ev_class, true from pg_rewrite where ev_type <> '1' and ev_class >= 16384 \
 union all select confrelid, true from pg_constraint where contype = 'f' \
  and (confdeltype in ('c', 'n', 'd') or confupdtype in ('c', 'n', 'd')) \
 union all select oid, true from pg_class where relkind in ('v', 'f', 'p') and oid >= 16384 \
) x join pg_class c on c.oid = x.relation where c.relpersistence <> 't' group by 1";

const TRIGGER_FUNCTIONS: &str = "\
select p.oid, case when l.lanname = 'plpgsql' then p.prosrc end \
from pg_proc p join pg_language l on l.oid = p.prolang \
where p.oid >= 16384 and p.prorettype = 'trigger'::regtype and l.lanname not in ('c', 'internal')";

const TRIGGERS: &str = "\
select distinct tgrelid, tgfoid from pg_trigger where not tgisinternal and tgfoid >= 16384";

const ATTACHED: &str = "\
select relation, tree from ( \
 select adrelid, adbin::text from pg_attrdef \
 union all select conrelid, conbin::text from pg_constraint where conrelid <> 0 and conbin is not null \
 union all select ev_class, ev_action::text from pg_rewrite where ev_type <> '1' and ev_class >= 16384 \
 union all select polrelid, concat(polqual::text, polwithcheck::text) from pg_policy \
 union all select tgrelid, tgqual::text from pg_trigger where tgqual is not null \
) x (relation, tree) where relation >= 16384 \
 and tree ~ 'funcid ([0-9]{5,}|2078|28[89][0-9]|1574|1576|1765) |relid [0-9]{5,} '";

const FOLLOWERS: &str = "\
select distinct confrelid, conrelid from pg_constraint where contype = 'f' \
 and (confdeltype in ('c', 'n', 'd') or confupdtype in ('c', 'n', 'd'))";

const SEARCH_PATHS: &str = "\
select r.rolname, substr(setting, 13), s.setdatabase <> 0 from pg_db_role_setting s \
 left join pg_roles r on r.oid = s.setrole cross join lateral unnest(s.setconfig) as setting \
where setting like 'search\\_path=%' \
 and (s.setdatabase = 0 or s.setdatabase = (select oid from pg_database where datname = current_database())) \
 and (s.setrole = 0 or r.rolname is not null) \
order by 3 desc";

/// The value of the configuration file, unless this session's own role or database hides it.
const DEFAULT_PATH: &str = "\
select case when source in ('user', 'database', 'database user', 'client') then null else reset_val end \
from pg_settings where name = 'search_path'";

/// Reads everything.
///
/// # Cancel safety
/// Dropping the future leaves `client` inside a transaction: close it.
pub async fn rows(client: &Client) -> Result<Rows, Error> {
    client.batch_execute(BEGIN).await?;
    let mut words = Words::default();
    let mut rows = Rows {
        schemas: collect(client, SCHEMAS, |row| Ok((row.try_get(0)?, name(row, 1)?))).await?,
        functions: collect(client, FUNCTIONS, |row| function(row, &mut words)).await?,
        aggregates: collect(client, AGGREGATES, |row| Ok((row.try_get(0)?, row.try_get(1)?)))
            .await?,
        relations: collect(client, RELATIONS, relation).await?,
        children: collect(client, CHILDREN, |row| Ok((row.try_get(0)?, row.try_get(1)?))).await?,
        views: collect(client, VIEWS, tree).await?,
        policies: collect(client, POLICIES, tree).await?,
        virtual_columns: collect(client, VIRTUAL_COLUMNS, tree).await?,
        operators: collect(client, OPERATORS, operator).await?,
        casts: collect(client, CASTS, |row| {
            Ok((row.try_get(0)?, row.try_get(1)?, row.try_get(2)?))
        })
        .await?,
        types: collect(client, TYPES, kind).await?,
        checks: collect(client, CHECKS, tree).await?,
        columns: collect(client, COLUMNS, |row| Ok((row.try_get(0)?, row.try_get(1)?))).await?,
        moving: collect(client, MOVING, |row| Ok((name(row, 0)?, row.try_get(1)?))).await?,
        trigger_functions: collect(client, TRIGGER_FUNCTIONS, |row| {
            let source: Option<&str> = row.try_get(1)?;
            Ok((row.try_get(0)?, source.map(|source| Body::read(source, false, &mut words))))
        })
        .await?,
        triggers: collect(client, TRIGGERS, |row| Ok((row.try_get(0)?, row.try_get(1)?))).await?,
        attached: collect(client, ATTACHED, tree).await?,
        followers: collect(client, FOLLOWERS, |row| Ok((row.try_get(0)?, row.try_get(1)?))).await?,
        search_paths: collect(client, SEARCH_PATHS, |row| {
            let role: Option<String> = row.try_get(0)?;
            Ok((role.map(String::into_boxed_str), row.try_get(1)?))
        })
        .await?,
        custom_settings: custom_settings(client).await?,
        default_search_path: client.query_one(DEFAULT_PATH, &[]).await?.try_get(0)?,
        words: Words::default(),
    };
    rows.words = words;
    client.batch_execute("commit").await?;
    merge_policies(&mut rows.policies);
    Ok(rows)
}

/// Runs a query and keeps what `read` makes of each row, one at a time.
async fn collect<T>(
    client: &Client,
    query: &str,
    mut read: impl FnMut(&Row) -> Result<T, Error>,
) -> Result<Vec<T>, Error> {
    let nothing: [&(dyn ToSql + Sync); 0] = [];
    let mut stream = pin!(client.query_raw(query, nothing).await?);
    let mut kept = Vec::new();
    while let Some(row) = stream.try_next().await? {
        kept.push(read(&row)?);
    }
    kept.shrink_to_fit();
    Ok(kept)
}

async fn custom_settings(client: &Client) -> Result<Vec<Box<str>>, Error> {
    let mut names = BTreeSet::new();
    collect(client, SETTING_SOURCES, |row| {
        custom::add_names(row.try_get(0)?, &mut names);
        Ok(())
    })
    .await?;
    Ok(names.into_iter().collect())
}

fn name(row: &Row, column: usize) -> Result<Box<str>, Error> {
    row.try_get::<_, &str>(column).map(Into::into)
}

fn letter(row: &Row, column: usize) -> Result<u8, Error> {
    row.try_get::<_, i8>(column).map(i8::cast_unsigned)
}

fn function(row: &Row, words: &mut Words) -> Result<Function, Error> {
    let count = |column| row.try_get::<_, i16>(column).map(|n| u16::try_from(n).unwrap_or(0));
    let (arguments, defaults) = (count(5)?, count(6)?);
    let variadic: bool = row.try_get(7)?;
    let mut argument_types: Vec<Oid> = row.try_get::<_, Option<_>>(8)?.unwrap_or_default();
    argument_types.retain(|oid| *oid >= super::rows::FIRST_NORMAL_OID);
    argument_types.shrink_to_fit();
    let source: Option<&str> = row.try_get(10)?;
    let plain_sql: bool = row.try_get(11)?;
    let fewest = arguments.saturating_sub(defaults);
    Ok(Function {
        oid: row.try_get(0)?,
        name: name(row, 1)?,
        schema: row.try_get(2)?,
        volatile: row.try_get(3)?,
        shipped: row.try_get(4)?,
        // A VARIADIC parameter may be left empty where it has the type "any".
        fewest: if variadic { fewest.saturating_sub(1) } else { fewest },
        most: if variadic { u16::MAX } else { arguments },
        argument_types,
        defaults: row.try_get::<_, Option<&str>>(9)?.map(References::read),
        body: source.map(|source| Body::read(source, plain_sql, words)),
    })
}

fn relation(row: &Row) -> Result<Relation, Error> {
    Ok(Relation {
        oid: row.try_get(0)?,
        name: name(row, 1)?,
        schema: row.try_get(2)?,
        kind: letter(row, 3)?,
        persistence: letter(row, 4)?,
        row_type: row.try_get(5)?,
    })
}

fn operator(row: &Row) -> Result<Operator, Error> {
    Ok(Operator {
        name: name(row, 0)?,
        function: row.try_get(1)?,
        left: row.try_get(2)?,
        right: row.try_get(3)?,
        shadows: row.try_get(4)?,
    })
}

fn kind(row: &Row) -> Result<Type, Error> {
    Ok(Type {
        oid: row.try_get(0)?,
        name: name(row, 1)?,
        relation: row.try_get(2)?,
        made_of: row.try_get::<_, Option<Oid>>(3)?.unwrap_or(0),
    })
}

fn tree(row: &Row) -> Result<(Oid, References), Error> {
    Ok((row.try_get(0)?, References::read(row.try_get(1)?)))
}

/// One entry per table: its policies together.
fn merge_policies(policies: &mut Vec<(Oid, References)>) {
    let mut merged: BTreeMap<Oid, References> = BTreeMap::new();
    for (table, tree) in policies.drain(..) {
        let all = merged.entry(table).or_default();
        all.functions.extend(tree.functions);
        all.relations.extend(tree.relations);
        all.types.extend(tree.types);
        all.row_lock |= tree.row_lock;
    }
    policies.extend(merged);
}
