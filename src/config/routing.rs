//! `[routing]` and its rules: where statements go if nothing else says so.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use toml::Spanned;

use super::error::Complaint;
use super::file::{RoutingSection, RuleTable};
use super::reader::{Reader, Span};
use super::settings::{Balance, Consistency, Node, Routing, Rule, RuleTarget};
use super::value::{Word, cut_name};

impl Word for Consistency {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("eventual", Self::Eventual),
        ("session", Self::Session),
        ("global", Self::Global),
        ("primary", Self::Primary),
    ];
}

impl Word for Balance {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("round-robin", Self::RoundRobin),
        ("weighted", Self::Weighted),
        ("least-in-flight", Self::LeastInFlight),
        ("lowest-latency", Self::LowestLatency),
    ];
}

impl Reader<'_> {
    pub(super) fn routing(&mut self, section: RoutingSection, nodes: &[Node]) -> Routing {
        let safe = self.optional("routing.safe_functions", section.safe_functions);
        Routing {
            consistency: self.word(
                "routing.consistency",
                section.consistency,
                Consistency::Session,
            ),
            balance: self.word("routing.balance", section.balance, Balance::RoundRobin),
            primary_reads: self
                .optional("routing.primary_reads", section.primary_reads)
                .unwrap_or(true),
            catchup_wait: self.time(
                "routing.catchup_wait",
                section.catchup_wait,
                Duration::ZERO..=Duration::from_secs(60),
                Duration::from_millis(20),
            ),
            safe_functions: safe
                .unwrap_or_default()
                .iter()
                .map(|name| name.trim().trim_end_matches("()").to_lowercase())
                .collect(),
            rules: self.rules(section.rule, nodes),
        }
    }

    fn rules(&mut self, tables: Vec<Spanned<RuleTable>>, nodes: &[Node]) -> Vec<Rule> {
        let mut names = HashSet::new();
        let mut rules = Vec::with_capacity(tables.len());
        for (number, table) in (1..).zip(tables) {
            let span = Some(table.span());
            let rule = self.rule(table.into_inner(), number, nodes);
            let routes =
                rule.target.is_some() || rule.max_lag.is_some() || rule.consistency.is_some();
            if !routes && rule.times.is_empty() {
                self.complain("routing.rule", &span, Complaint::RuleWithoutEffect);
            }
            self.twice(&mut names, rule.name.clone(), "routing.rule.name", &span, &rule.name);
            rules.push(rule);
        }
        rules
    }

    fn rule(&mut self, table: RuleTable, number: usize, nodes: &[Node]) -> Rule {
        let target_span = table.target.span.clone();
        let target = self
            .optional("routing.rule.target", table.target)
            .and_then(|text| self.target(text, &target_span, nodes));
        Rule {
            name: self
                .optional("routing.rule.name", table.name)
                .unwrap_or_else(|| number.to_string()),
            user: self.optional("routing.rule.user", table.user).map(cut_name),
            database: self.optional("routing.rule.database", table.database).map(cut_name),
            application_name: self
                .optional("routing.rule.application_name", table.application_name),
            table: self.optional("routing.rule.table", table.table),
            function: self.optional("routing.rule.function", table.function),
            statement: self.optional("routing.rule.statement", table.statement),
            target,
            max_lag: self.optional("routing.rule.max_lag", table.max_lag),
            consistency: self
                .optional("routing.rule.consistency", table.consistency)
                .map(|word| word.0),
            times: self.times(
                "routing.rule",
                table.query_timeout,
                table.transaction_timeout,
                table.idle_in_transaction_timeout,
            ),
        }
    }

    fn target(&mut self, text: String, span: &Span, nodes: &[Node]) -> Option<RuleTarget> {
        let complaint = match text.split_once(':') {
            None if text == "primary" => return Some(RuleTarget::Primary),
            None if text == "replica" => return Some(RuleTarget::Replica),
            Some(("node", name)) => match nodes.iter().find(|node| *node.name == *name) {
                Some(node) => return Some(RuleTarget::Node(Arc::clone(&node.name))),
                None => Complaint::NoSuchNode {
                    name: name.to_owned(),
                    known: nodes.iter().map(|node| node.name.to_string()).collect(),
                },
            },
            Some(("zone", name)) => {
                match nodes
                    .iter()
                    .filter_map(|node| node.zone.as_ref())
                    .find(|zone| ***zone == *name)
                {
                    Some(zone) => return Some(RuleTarget::Zone(Arc::clone(zone))),
                    None => Complaint::NoSuchZone { name: name.to_owned() },
                }
            }
            _ => Complaint::NotATarget { text },
        };
        self.complain("routing.rule.target", span, complaint);
        None
    }
}
