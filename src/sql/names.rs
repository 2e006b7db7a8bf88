//! What a statement names: calls, relations, identifiers, operators; and what its keywords betray
//! at any depth: data changes, row locks, SELECT INTO.
//!
//! One pass over the tokens with a stack of parentheses. Follows `gram.y` in where a name may be a
//! function's (before a parenthesis, unless an alias, a type or a clause stands there) and where a
//! relation's (after FROM, JOIN, INTO ..., or a comma in such a list). Where the grammar leaves a
//! doubt to a reader that holds only tokens, a name counts as a call.
//!
//! Owns the stack and what is done with a name where it stands; what a keyword makes of the names after
//! it is for [`keywords`]. What does not match or is not understood is told ([`Betrayed::broken`]), and the
//! rest is read all the same.

mod keywords;

use rustc_hash::{FxBuildHasher, FxHashMap, FxHashSet};

use super::scan::Kind;
use super::statement::{Call, Name, Statement};
use super::tokens::Tokens;
use super::words;

/// Identifiers that a statement has, as a rule, at most.
const USUAL: usize = 14;

/// What the keywords of a statement betray.
#[derive(Debug, Default, Clone, Copy)]
#[allow(clippy::struct_excessive_bools, reason = "independent findings, not a state")]
pub struct Betrayed {
    /// INSERT, UPDATE, DELETE or MERGE as a command, at any depth.
    pub writes: bool,
    /// A locking clause, at any depth.
    pub locks: bool,
    /// INTO that belongs to no INSERT or MERGE.
    pub into: bool,
    /// ... and makes a temporary table.
    pub into_temp: bool,
    /// A name in the schema `pg_temp`.
    pub pg_temp: bool,
    /// Parentheses that do not match, or a token that was not understood.
    pub broken: bool,
}

/// One open parenthesis or bracket, or the statement itself.
#[derive(Debug, Default, Clone)]
#[allow(clippy::struct_excessive_bools, reason = "each says which names may follow, on its own")]
struct Level<'a> {
    /// The call whose arguments these are.
    call: Option<usize>,
    /// Commas between its arguments.
    commas: u16,
    /// There is something in it other than a lone `*`.
    filled: bool,
    /// Its arguments have ended (ORDER BY in an aggregate).
    arguments_over: bool,
    /// VARIADIC, or `substring(a FROM b)`.
    unknown_arity: bool,
    /// FROM does not begin a clause here: `extract(year FROM x)`.
    from_is_not_a_clause: bool,
    /// In a FROM list.
    in_from: bool,
    /// A relation or function comes next.
    expects: bool,
    /// ... and it can only be a relation: INSERT INTO t (a, b).
    relation_only: bool,
    /// In a join condition, where names are values again.
    in_on: bool,
    /// Between WITH and the query it belongs to.
    in_with: bool,
    with_recursive: bool,
    /// In GROUP BY, where ROLLUP and CUBE are no functions.
    in_group: bool,
    /// Column names and types of an alias: nothing here is evaluated.
    no_calls: bool,
    /// The CTE whose body is the next parenthesis, visible once that closes.
    pending_cte: Option<&'a [u8]>,
    /// The CTEs that are forgotten when this level closes.
    ctes: Vec<&'a [u8]>,
}

struct Reader<'a> {
    tokens: Tokens<'a>,
    found: Betrayed,
    calls: Vec<Call>,
    levels: Vec<Level<'a>>,
    visible: FxHashMap<&'a [u8], usize>,
    relations: FxHashSet<(&'a [u8], &'a [u8])>,
    identifiers: FxHashSet<&'a [u8]>,
    operators: FxHashSet<&'a [u8]>,
}

/// Collects into `statement` what `tokens` name. The first token is a keyword of the statement.
pub fn collect(tokens: Tokens<'_>, statement: &mut Statement) -> Betrayed {
    let mut reader = Reader {
        tokens,
        found: Betrayed::default(),
        calls: Vec::new(),
        levels: vec![Level::default()],
        visible: FxHashMap::default(),
        relations: FxHashSet::default(),
        identifiers: FxHashSet::with_capacity_and_hasher(USUAL, FxBuildHasher),
        operators: FxHashSet::default(),
    };
    let mut at = 0;
    while at < tokens.list.len() {
        at = reader.token(at, statement);
    }
    reader.found.broken |= reader.levels.len() != 1;
    if reader.calls.len() > 1 {
        let mut known: FxHashSet<Call> = FxHashSet::default();
        reader.calls.retain(|call| known.insert(call.clone()));
    }
    statement.calls.append(&mut reader.calls);
    reader.found
}

impl<'a> Reader<'a> {
    fn level(&mut self) -> &mut Level<'a> {
        if self.levels.is_empty() {
            self.levels.push(Level::default());
        }
        let last = self.levels.len() - 1;
        &mut self.levels[last]
    }

    fn previous_kind(&self, at: usize) -> Option<Kind> {
        at.checked_sub(1).and_then(|before| self.tokens.kind(before))
    }

    fn previous_word(&self, at: usize) -> &'a [u8] {
        at.checked_sub(1).map_or(&[], |before| self.tokens.word(before))
    }

    /// Takes the token at `at` and those that belong to it; returns where the next one is.
    fn token(&mut self, at: usize, statement: &mut Statement) -> usize {
        let Some(kind) = self.tokens.kind(at) else { return at + 1 };
        let is_star = kind == Kind::Operator && self.tokens.source(at) == b"*";
        if kind != Kind::Close && !(is_star && self.previous_kind(at) == Some(Kind::Open)) {
            self.level().filled = true;
        }
        match kind {
            Kind::Word | Kind::Quoted => return self.name_or_keyword(at, statement),
            Kind::Open | Kind::OpenBracket => self.open(at, None),
            Kind::Close | Kind::CloseBracket => self.close(at),
            Kind::Comma => {
                let level = self.level();
                if !level.arguments_over {
                    level.commas = level.commas.saturating_add(1);
                }
                level.expects = level.in_from;
                level.in_on = false;
            }
            Kind::Operator => self.operator(self.tokens.source(at), statement),
            Kind::Semicolon => {
                // Between the statements of a rule or of a routine's body.
                let level = self.level();
                level.in_from = false;
                level.in_with = false;
                level.in_group = false;
            }
            Kind::Error => self.found.broken = true,
            _ => {}
        }
        at + 1
    }

    fn open(&mut self, at: usize, call: Option<usize>) {
        let before = self.previous_word(at);
        let sets = before == b"sets" && at > 1 && self.tokens.word(at - 2) == b"grouping";
        let special = matches!(before, b"extract" | b"substring" | b"trim" | b"overlay");
        let may_be_alias = match self.previous_kind(at) {
            Some(Kind::Quoted) => true,
            Some(Kind::Word) => {
                before == b"as" || !(words::is_never_a_call(before) || before == b"repeatable")
            }
            _ => false,
        };
        let after_close = self.previous_kind(at) == Some(Kind::Close);
        let parent = self.level();
        let expects = std::mem::take(&mut parent.expects) && !parent.relation_only;
        parent.relation_only = false;
        // `WITH x AS (...) (SELECT ...)`: the list is over.
        parent.in_with &= !after_close;
        let level = Level {
            call,
            in_from: expects,
            expects,
            // Alias lists stand in a FROM list after what they name, never in a condition.
            no_calls: parent.no_calls
                || (may_be_alias && parent.in_from && !parent.in_on && !expects && call.is_none()),
            in_group: sets && parent.in_group,
            from_is_not_a_clause: special,
            ..Level::default()
        };
        self.levels.push(level);
    }

    fn close(&mut self, at: usize) {
        let Some(level) = self.levels.pop() else { return };
        if self.levels.is_empty() {
            self.found.broken = true;
            return;
        }
        for name in level.ctes {
            if let Some(count) = self.visible.get_mut(name) {
                *count -= 1;
            }
        }
        if let Some(call) = level.call {
            let within = self.tokens.word(at + 1) == b"within";
            let count = if level.filled { level.commas.saturating_add(1) } else { 0 };
            self.calls[call].arity = (!level.unknown_arity && !within).then_some(count);
        }
        // The body of a CTE has ended: from here on its name is known.
        let parent = self.level();
        if parent.in_with
            && let Some(name) = parent.pending_cte.take()
        {
            if self.tokens.kind(at) == Some(Kind::Close) && !self.is_body(at) {
                self.level().pending_cte = Some(name);
            } else {
                self.declare(name);
            }
        }
    }

    /// Whether the group that closes at `at` is a CTE's body and not its list of columns.
    fn is_body(&self, at: usize) -> bool {
        self.tokens.word(at + 1) != b"as"
    }

    fn declare(&mut self, name: &'a [u8]) {
        *self.visible.entry(name).or_default() += 1;
        self.level().ctes.push(name);
    }

    fn operator(&mut self, spelling: &'a [u8], statement: &mut Statement) {
        if words::is_punctuation(spelling) || !self.operators.insert(spelling) {
            return;
        }
        match words::builtin_operator(spelling) {
            Some(known) => statement.builtin_operators.push(known),
            None => statement.operators.push(String::from_utf8_lossy(spelling).into()),
        }
    }

    fn name_or_keyword(&mut self, at: usize, statement: &mut Statement) -> usize {
        let word = self.tokens.word(at);
        let named = match self.previous_kind(at) {
            // `(a).b`, `a[1].b`: a field.
            Some(Kind::Dot) => true,
            _ => self.previous_word(at) == b"as" && !continues_as(word),
        };
        if !named && !word.is_empty() {
            if self.command(word, at) {
                return at + 1;
            }
            self.keyword(word, at);
            let is_join = word == b"join" && self.level().in_from;
            if words::is_reserved(word) || is_join || self.is_rows_from(at) {
                return at + 1;
            }
        }
        self.name(at, named, statement)
    }

    fn is_rows_from(&self, at: usize) -> bool {
        self.tokens.word(at) == b"rows" && self.tokens.word(at + 1) == b"from"
    }

    /// A name with its qualifiers: a call, a relation, a CTE, or just an identifier.
    fn name(&mut self, at: usize, named: bool, statement: &mut Statement) -> usize {
        if !named
            && self.tokens.word(at) == b"operator"
            && self.tokens.kind(at + 1) == Some(Kind::Open)
            && let Some(next) = self.qualified_operator(at + 1, statement)
        {
            return next;
        }
        let mut last = at;
        self.identifier(at, statement);
        while self.tokens.kind(last + 1) == Some(Kind::Dot) && self.tokens.is_name(last + 2) {
            last += 2;
            self.identifier(last, statement);
        }
        let next = last + 1;
        let schema = (last > at).then(|| last - 2);
        if named {
            return next;
        }
        if self.is_cte_name(at, next) {
            return self.cte(at, next);
        }
        let opens = self.tokens.kind(next) == Some(Kind::Open);
        if opens && !self.level().relation_only && self.is_call(at, last) {
            let name = self.owned(schema, last);
            self.calls.push(Call { name, arity: None });
            self.level().expects = false;
            let call = self.calls.len() - 1;
            self.level().filled = true;
            self.open(next, Some(call));
            return next + 1;
        }
        let is_call_like = opens && !self.level().relation_only;
        let modifies = is_modifier(self.tokens.word(at)) && self.tokens.is_name(next);
        let level = self.level();
        if level.expects && !(modifies && level.relation_only) {
            level.expects = false;
            level.relation_only = false;
            if !is_call_like {
                self.relation(schema, last, statement);
            }
        }
        next
    }

    fn identifier(&mut self, at: usize, statement: &mut Statement) {
        let source = self.tokens.source(at);
        if !self.identifiers.insert(source) {
            return;
        }
        if !source.is_ascii() {
            statement.non_ascii = true;
            self.found.broken |= std::str::from_utf8(source).is_err();
        }
        let Some(name) = self.tokens.name(at) else { return };
        self.found.pg_temp |= name.starts_with("pg_temp");
        statement.identifiers.push(name);
    }

    fn owned(&self, schema: Option<usize>, last: usize) -> Name {
        Name {
            schema: schema.and_then(|index| self.tokens.name(index)),
            name: self.tokens.name(last).unwrap_or_default(),
        }
    }

    fn relation(&mut self, schema: Option<usize>, last: usize, statement: &mut Statement) {
        let key =
            (schema.map_or(&[][..], |index| self.tokens.source(index)), self.tokens.source(last));
        if schema.is_none() && self.visible.get(bare(key.1)).is_some_and(|count| *count > 0) {
            return;
        }
        if self.relations.insert(key) {
            let name = self.owned(schema, last);
            statement.relations.push(name);
        }
    }

    fn is_cte_name(&mut self, at: usize, next: usize) -> bool {
        let announced = self.previous_kind(at) == Some(Kind::Comma)
            || matches!(self.previous_word(at), b"with" | b"recursive");
        self.level().in_with
            && announced
            && (self.tokens.word(next) == b"as" || self.tokens.kind(next) == Some(Kind::Open))
    }

    /// Declares a CTE: at once in WITH RECURSIVE, else when its body has closed.
    fn cte(&mut self, at: usize, next: usize) -> usize {
        let name = bare(self.tokens.source(at));
        if self.level().with_recursive {
            self.declare(name);
        } else {
            self.level().pending_cte = Some(name);
        }
        if self.tokens.kind(next) != Some(Kind::Open) {
            return next;
        }
        self.open(next, None);
        self.level().no_calls = true;
        next + 1
    }

    /// `OPERATOR(schema.+)`; returns where the next token is, or
    /// nothing if it is a call of a function of that name.
    fn qualified_operator(&mut self, open: usize, statement: &mut Statement) -> Option<usize> {
        let mut operator = open + 1;
        while matches!(self.tokens.kind(operator), Some(Kind::Word | Kind::Quoted | Kind::Dot)) {
            operator += 1;
        }
        if self.tokens.kind(operator) != Some(Kind::Operator)
            || self.tokens.kind(operator + 1) != Some(Kind::Close)
        {
            return None;
        }
        let mut foreign = false;
        for index in open + 1..operator {
            if self.tokens.is_name(index) {
                self.identifier(index, statement);
                foreign |= bare(self.tokens.source(index)) != b"pg_catalog";
            }
        }
        let spelling = self.tokens.source(operator);
        if foreign {
            let spelling: Box<str> = String::from_utf8_lossy(spelling).into();
            if !statement.operators.contains(&spelling) {
                statement.operators.push(spelling);
            }
        } else {
            self.operator(spelling, statement);
        }
        Some(operator + 2)
    }

    /// Whether the name `at..=last`, which stands before a parenthesis, may be a function's.
    fn is_call(&mut self, at: usize, last: usize) -> bool {
        let qualified = last > at;
        let word = self.tokens.word(at);
        if !qualified && !word.is_empty() && words::is_never_a_call(word) {
            return false;
        }
        if self.level().no_calls {
            return false;
        }
        let before = self.previous_word(at);
        // Aliases with columns, types of casts, clauses of statements.
        if matches!(before, b"as" | b"execute" | b"prepare" | b"savepoint")
            || (at > 0 && self.tokens.is_operator(at - 1, b"::"))
            || (at == 0 && !qualified)
        {
            return false;
        }
        let level = self.level();
        let after_item = level.in_from && !level.expects && !level.in_on;
        if after_item && before != b"tablesample" {
            return false;
        }
        let in_group = level.in_group;
        qualified || !self.is_clause_word(word, before, at, in_group)
    }

    /// Words that are no keywords by themselves but open a clause after certain others.
    fn is_clause_word(&self, word: &[u8], before: &[u8], at: usize, in_group: bool) -> bool {
        let after_value = matches!(
            self.previous_kind(at),
            Some(
                Kind::Close
                    | Kind::CloseBracket
                    | Kind::String
                    | Kind::Number
                    | Kind::Param
                    | Kind::Quoted
            )
        );
        let after_column =
            self.previous_kind(at) == Some(Kind::Word) && !words::is_reserved(before);
        match word {
            b"over" | b"filter" => self.previous_kind(at) == Some(Kind::Close),
            b"by" => matches!(before, b"order" | b"group" | b"partition"),
            b"like" | b"ilike" | b"overlaps" => {
                after_value || before == b"not" || (after_column && before != b"by")
            }
            b"varying" => matches!(before, b"character" | b"char" | b"nchar" | b"bit"),
            b"materialized" => matches!(before, b"as" | b"not"),
            b"conflict" => before == b"on",
            b"sets" => before == b"grouping",
            b"rollup" | b"cube" => in_group,
            b"second" => before == b"to" || self.previous_kind(at) == Some(Kind::String),
            b"first" | b"next" => before == b"fetch",
            b"zone" => before == b"time",
            b"verbose" => matches!(before, b"explain" | b"analyze" | b"analyse"),
            _ => false,
        }
    }
}

/// What may stand between INTO and the name of the relation.
fn is_modifier(word: &[u8]) -> bool {
    matches!(word, b"temp" | b"temporary" | b"unlogged" | b"local" | b"global")
}

/// A simple name without its quotes (a name with quotes inside never equals another's bare form).
fn bare(source: &[u8]) -> &[u8] {
    source.strip_prefix(b"\"").and_then(|rest| rest.strip_suffix(b"\"")).unwrap_or(source)
}

/// Whether a word after AS goes on with the statement and is not a label.
fn continues_as(word: &[u8]) -> bool {
    matches!(
        word,
        b"select"
            | b"values"
            | b"with"
            | b"table"
            | b"insert"
            | b"update"
            | b"delete"
            | b"merge"
            | b"execute"
            | b"not"
            | b"materialized"
    )
}
