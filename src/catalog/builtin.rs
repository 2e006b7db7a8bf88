//! What is known of PostgreSQL's own functions, views and settings without asking a server.
//!
//! `pg_proc.provolatile` lies both ways: `txid_current` is STABLE, `random` is VOLATILE. So two
//! lists stand beside it, the hazards that the catalog does not show and the harmless functions
//! that it calls volatile, and a third gives every other function of `pg_catalog` that is not
//! volatile (taken from PostgreSQL 15's `pg_proc`, with the additions of 16 to 18), which also
//! serves where there is no catalog at all. All names are lower case.

use std::sync::LazyLock;

use rustc_hash::FxHashSet;

use super::Hazard;

/// Functions of `pg_catalog` that are STABLE or IMMUTABLE in every overload.
const STEADY: &str = include_str!("builtin/steady.txt");
/// VOLATILE functions, of `pg_catalog` and of the extensions that come with PostgreSQL, whose
/// result a client could not tell from the primary's.
const HARMLESS: &str = include_str!("builtin/harmless.txt");
/// What looks like a call and is none: keywords with parentheses, and names of types.
const SYNTAX: &str = include_str!("builtin/syntax.txt");
/// Functions of the extensions that come with PostgreSQL, for where there is no catalog.
const CONTRIB_NAMES: &str = include_str!("builtin/contrib.txt");
/// Settings whose value is the session's own or the same on all nodes of a cluster.
const PLAIN_SETTINGS: &str = include_str!("builtin/plain_settings.txt");

fn words(text: &'static str) -> impl Iterator<Item = &'static str> {
    text.lines().filter(|line| !line.starts_with('#')).flat_map(str::split_ascii_whitespace)
}

static SAFE_CALLS: LazyLock<FxHashSet<&'static str>> = LazyLock::new(|| {
    let mut set: FxHashSet<_> = words(STEADY).collect();
    set.retain(|name| function_hazard(name).is_none());
    set.extend(words(HARMLESS));
    set.extend(words(SYNTAX));
    set
});
static HARMLESS_SET: LazyLock<FxHashSet<&'static str>> =
    LazyLock::new(|| words(HARMLESS).collect());
static CONTRIB: LazyLock<FxHashSet<&'static str>> =
    LazyLock::new(|| words(CONTRIB_NAMES).filter(|name| function_hazard(name).is_none()).collect());
static PLAIN: LazyLock<FxHashSet<&'static str>> = LazyLock::new(|| words(PLAIN_SETTINGS).collect());

/// Whether a call of this name is safe on a replica when no user function has the name.
#[must_use]
pub fn is_safe_call(name: &str) -> bool {
    SAFE_CALLS.contains(name)
}

/// The same, where the number of arguments is known to tell a safe overload from one that is not.
#[must_use]
pub fn is_safe_call_of(name: &str, arity: Option<u16>) -> bool {
    // ts_rewrite(query, text) runs the text; the form with a target and a substitute does not.
    is_safe_call(name) || (name == "ts_rewrite" && arity == Some(3)) || CONTRIB.contains(name)
}

/// Whether a function of this name that ships with PostgreSQL may be VOLATILE and yet go to a replica.
#[must_use]
pub fn is_harmless_volatile(name: &str) -> bool {
    HARMLESS_SET.contains(name)
}

/// Whether a call of this name may leave something with its session that the text does not show, if no user function
/// has the name. What sets, locks or moves a sequence by itself is seen in the text.
#[must_use]
pub fn call_may_leave(name: &str, arity: Option<u16>) -> bool {
    match function_hazard(name) {
        Some(Hazard::SqlText) => true,
        Some(_) => false,
        None => {
            name != "set_config" && !is_safe_call_of(name, arity) && !is_harmless_volatile(name)
        }
    }
}

/// Whether SHOW of this setting says the same on every node.
#[must_use]
pub fn is_plain_setting(name: &str) -> bool {
    name.contains('.') || PLAIN.contains(name)
}

/// The hazard of a function that ships with PostgreSQL, whatever its volatility says.
#[must_use]
pub fn function_hazard(name: &str) -> Option<Hazard> {
    // Every sensitive name is covered by its prefix or listed; prefixes also cover what later
    // versions add to a family.
    if let Some(rest) = name.strip_prefix("pg_") {
        return pg_function_hazard(rest);
    }
    let listed = match name {
        "nextval" | "setval" | "currval" | "lastval" => Hazard::SequenceFunction,
        "loread" | "lowrite" => Hazard::LargeObject,
        "query_to_xml"
        | "query_to_xmlschema"
        | "query_to_xml_and_xmlschema"
        | "cursor_to_xml"
        | "cursor_to_xmlschema"
        | "ts_stat"
        | "xpath_table"
        | "crosstab"
        | "crosstab2"
        | "crosstab3"
        | "crosstab4"
        | "crosstabn"
        | "connectby" => Hazard::SqlText,
        "inet_server_addr" | "inet_server_port" | "inet_client_addr" | "inet_client_port" => {
            Hazard::NodeFunction
        }
        _ if name.starts_with("txid_") => Hazard::TransactionId,
        _ if name.starts_with("lo_") => Hazard::LargeObject,
        _ if name.starts_with("dblink") => Hazard::SqlText,
        _ if name.starts_with("binary_upgrade_") => Hazard::NodeFunction,
        _ => return None,
    };
    Some(listed)
}

/// Functions about the node they run on, without `pg_`.
const NODE_FUNCTIONS: &[&str] = &[
    "backend_pid",
    "is_in_recovery",
    "promote",
    "reload_conf",
    "rotate_logfile",
    "rotate_logfile_old",
    "terminate_backend",
    "cancel_backend",
    "blocking_pids",
    "safe_snapshot_blocking_pids",
    "conf_load_time",
    "postmaster_start_time",
    "lock_status",
    "prepared_statement",
    "prepared_xact",
    "cursor",
    "listening_channels",
    "my_temp_schema",
    "notification_queue_usage",
    "get_replication_slots",
    "get_wal_replay_pause_state",
    "get_wal_resource_managers",
    "get_shmem_allocations",
    "get_shmem_allocations_numa",
    "get_backend_memory_contexts",
    "get_process_memory_contexts",
    "get_wal_summarizer_state",
    "log_backend_memory_contexts",
    "log_standby_snapshot",
    "hba_file_rules",
    "ident_file_mappings",
    "show_all_file_settings",
    "show_all_settings",
    "show_replication_origin_status",
    "is_wal_replay_paused",
    "current_logfile",
    "jit_available",
    "collation_actual_version",
    "database_collation_actual_version",
    "start_backup",
    "stop_backup",
    "backup_start",
    "backup_stop",
    "is_in_backup",
    "backup_start_time",
    "switch_wal",
    "switch_xlog",
    "database_size",
    "tablespace_size",
    "walfile_name",
    "walfile_name_offset",
    "split_walfile_name",
    "config",
    "sync_replication_slots",
    "buffercache_pages",
    "buffercache_summary",
    "isolation_test_session_is_blocked",
    "numa_available",
    "get_aios",
    "wal_lsn",
    "prewarm",
    "autoprewarm_dump_now",
];
/// Families of such functions.
const NODE_FUNCTION_PREFIXES: &[&str] = &[
    "stat_",
    "statio_",
    "last_",
    "wal_replay_",
    "current_wal_",
    "ls_",
    "read_",
    "control_",
    "replication_",
    "logical_",
    "create_",
    "drop_",
    "copy_",
    "stat_statements",
    "wal_summary",
    "available_wal",
    "buffercache_",
    "xlog",
    "current_xlog",
    "walinspect",
    "get_wal_",
];
/// Functions about transactions and snapshots, without `pg_`.
const TRANSACTION_FUNCTIONS: &[&str] = &[
    "current_snapshot",
    "export_snapshot",
    "xact_status",
    "get_multixact_members",
    "wait_for_lsn",
];

/// The same for names that begin with `pg_`; `rest` is what follows.
fn pg_function_hazard(rest: &str) -> Option<Hazard> {
    let hazard = match rest {
        "notify" => Hazard::Notify,
        "sequence_last_value" | "get_sequence_data" => Hazard::SequenceFunction,
        _ if rest.starts_with("advisory_") || rest.starts_with("try_advisory_") => {
            Hazard::AdvisoryLock
        }
        _ if rest.starts_with("current_xact_id") || TRANSACTION_FUNCTIONS.contains(&rest) => {
            Hazard::TransactionId
        }
        _ if NODE_FUNCTIONS.contains(&rest) => Hazard::NodeFunction,
        _ if NODE_FUNCTION_PREFIXES.iter().any(|prefix| rest.starts_with(prefix)) => {
            Hazard::NodeFunction
        }
        _ => return None,
    };
    Some(hazard)
}

/// Whether a function that is a hazard can be called with one argument, and so be written like a
/// column (`('s'::regclass).nextval`). Only those with names that nobody gives to a column.
#[must_use]
pub fn is_hazard_in_column_notation(name: &str) -> bool {
    matches!(
        name,
        "nextval"
            | "currval"
            | "pg_advisory_lock"
            | "pg_advisory_lock_shared"
            | "pg_advisory_unlock"
            | "pg_advisory_unlock_shared"
            | "pg_advisory_xact_lock"
            | "pg_advisory_xact_lock_shared"
            | "pg_try_advisory_lock"
            | "pg_try_advisory_lock_shared"
            | "pg_try_advisory_xact_lock"
            | "pg_try_advisory_xact_lock_shared"
            | "pg_cancel_backend"
            | "pg_terminate_backend"
            | "pg_xact_status"
            | "lo_get"
            | "lo_unlink"
            | "lo_creat"
            | "lo_create"
            | "lo_import"
    )
}

/// The hazard of a view that ships with PostgreSQL, by its bare name.
#[must_use]
pub fn relation_hazard(name: &str) -> Option<Hazard> {
    const NODE: &[&str] = &[
        "locks",
        "cursors",
        "prepared_statements",
        "prepared_xacts",
        "settings",
        "file_settings",
        "hba_file_rules",
        "ident_file_mappings",
        "config",
        "shmem_allocations",
        "shmem_allocations_numa",
        "backend_memory_contexts",
        "replication_slots",
        "replication_origin_status",
        "aios",
        "buffercache",
        "buffercache_numa",
    ];
    let rest = name.strip_prefix("pg_")?;
    if rest == "sequences" {
        return Some(Hazard::SequenceRelation);
    }
    // pg_stats and pg_statistic* are about tables and the same everywhere.
    let node = rest.starts_with("stat_") || rest.starts_with("statio_") || NODE.contains(&rest);
    node.then_some(Hazard::NodeRelation)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lists_do_not_contradict_each_other() {
        for name in words(HARMLESS).chain(words(SYNTAX)) {
            assert_eq!(function_hazard(name), None, "{name}");
            assert_eq!(name, name.to_ascii_lowercase());
        }
        for name in ["nextval", "pg_advisory_lock", "txid_current", "pg_is_in_recovery", "dblink"] {
            assert!(function_hazard(name).is_some() && !is_safe_call(name), "{name}");
        }
        for name in
            ["lower", "now", "count", "random", "pg_sleep", "coalesce", "numeric", "pg_size_pretty"]
        {
            assert!(is_safe_call(name), "{name}");
        }
        assert!(!is_safe_call("no_such_function"));
        // STABLE by pg_proc, and yet not for a replica.
        for name in
            ["pg_current_snapshot", "pg_current_xact_id", "pg_stat_get_activity", "pg_backend_pid"]
        {
            assert!(words(STEADY).any(|steady| steady == name), "{name} is gone from the list");
            assert!(!is_safe_call(name), "{name}");
        }
    }

    #[test]
    fn views_about_their_node() {
        for name in ["pg_locks", "pg_stat_activity", "pg_stat_statements", "pg_settings"] {
            assert_eq!(relation_hazard(name), Some(Hazard::NodeRelation), "{name}");
        }
        for name in ["pg_class", "pg_stats", "pg_statistic", "pg_tables", "locks", "settings"] {
            assert_eq!(relation_hazard(name), None, "{name}");
        }
    }

    #[test]
    fn settings_of_a_node_are_not_plain() {
        for name in ["work_mem", "search_path", "server_version", "transaction_isolation", "app.x"]
        {
            assert!(is_plain_setting(name), "{name}");
        }
        for name in
            ["port", "in_hot_standby", "transaction_read_only", "data_directory", "all", "hba_file"]
        {
            assert!(!is_plain_setting(name), "{name}");
        }
    }
}
