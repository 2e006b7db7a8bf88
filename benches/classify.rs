//! What reading a statement costs: a text of late, a known shape, a new one, a giant; beside `sqlparser` alone and
//! PostgreSQL's own grammar (`pg_query`).

use std::hint::black_box;

use causeway::sql::scan::Scanner;
use causeway::sql::{Lexis, ScriptCache, analyze};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use sqlparser::dialect::PostgreSqlDialect;
use sqlparser::parser::Parser;

/// 100 bytes.
const STATEMENT: &str = "SELECT id, owner, balance FROM accounts WHERE branch = 42 AND owner = \
                         'someone' ORDER BY balance LIMIT 10";

fn classify(criterion: &mut Criterion) {
    let lexis = Lexis::default();
    let cache = ScriptCache::new(1000);
    let mut group = criterion.benchmark_group("classify");
    group.bench_function("text of late", |bencher| {
        bencher.iter(|| cache.script(black_box(STATEMENT.as_bytes()), lexis));
    });
    // One shape, written in more ways than a thread remembers.
    let ways: Vec<String> = (1..65)
        .map(|spaces| STATEMENT.replace(" BY", &format!("{} BY", " ".repeat(spaces % 8))))
        .zip(1..)
        .map(|(text, spaces)| text.replace(" AND", &format!("{}AND", " ".repeat(1 + spaces / 8))))
        .collect();
    group.bench_function("known shape", |bencher| {
        let mut next = ways.iter().cycle();
        bencher.iter(|| next.next().map(|text| cache.script(black_box(text.as_bytes()), lexis)));
    });
    group.bench_function("new shape", |bencher| {
        bencher.iter(|| analyze(black_box(STATEMENT.as_bytes()), lexis));
    });
    group.bench_function("tokens only", |bencher| {
        bencher.iter(|| Scanner::new(black_box(STATEMENT.as_bytes()), lexis).count());
    });
    group.bench_function("sqlparser alone", |bencher| {
        bencher.iter(|| Parser::parse_sql(&PostgreSqlDialect {}, black_box(STATEMENT)));
    });
    group.bench_function("pg_query", |bencher| {
        bencher.iter(|| pg_query::parse(black_box(STATEMENT)));
    });
    group.finish();
}

fn giant(criterion: &mut Criterion) {
    let row = "(1, 'a value of some length', 2.5), (default, f(2), 'x'), ";
    let text = format!("INSERT INTO t VALUES {}(1)", row.repeat(10_000_000 / row.len()));
    let mut group = criterion.benchmark_group("giant");
    group.sample_size(10);
    group.throughput(Throughput::Bytes(text.len() as u64));
    group.bench_function("10 MB of tokens", |bencher| {
        bencher.iter(|| Scanner::new(black_box(text.as_bytes()), Lexis::default()).count());
    });
    group.bench_function("10 MB of facts", |bencher| {
        bencher.iter(|| analyze(black_box(text.as_bytes()), Lexis::default()));
    });
    group.finish();
}

criterion_group!(benches, classify, giant);
criterion_main!(benches);
