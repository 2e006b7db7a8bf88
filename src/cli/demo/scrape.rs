//! What the proxy says of itself: `/metrics`, read as anyone would.

use std::io;
use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Status and body of a GET.
///
/// # Errors
/// When nobody listens there, or what answers does not speak HTTP.
pub async fn get(address: SocketAddr, path: &str) -> io::Result<(u16, String)> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: causeway\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let parts = answer
        .split_once("\r\n\r\n")
        .and_then(|(head, body)| Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned())));
    parts.ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// The samples of one scrape.
#[derive(Debug, Clone, Default)]
pub struct Scrape(Vec<Sample>);

#[derive(Debug, Clone)]
struct Sample {
    name: String,
    labels: Vec<(String, String)>,
    value: f64,
}

impl Scrape {
    /// Reads OpenMetrics text; what is no sample is passed over.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        Self(text.lines().filter_map(Sample::parse).collect())
    }

    /// Fetches and reads `/metrics`.
    ///
    /// # Errors
    /// As [`get`].
    pub async fn fetch(address: SocketAddr) -> io::Result<Self> {
        get(address, "/metrics").await.map(|(_, body)| Self::parse(&body))
    }

    /// The sum of the samples of this name whose labels have these values; nothing if there is none.
    #[must_use]
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let matching = self.0.iter().filter(|sample| {
            sample.name == name
                && labels.iter().all(|(label, value)| sample.label(label) == Some(value))
        });
        matching.map(|sample| sample.value).reduce(|sum, value| sum + value)
    }

    /// The samples of this name, each with its value of this label, in their order.
    pub fn by(&self, name: &str, label: &str) -> impl Iterator<Item = (&str, f64)> {
        let named = self.0.iter().filter(move |sample| sample.name == name);
        named.filter_map(move |sample| Some((sample.label(label)?, sample.value)))
    }

    /// Of a metric that has one sample per value of `of` and is 1 for the one that holds: that value.
    #[must_use]
    pub fn which(&self, name: &str, labels: &[(&str, &str)], of: &str) -> Option<&str> {
        let holds = self.0.iter().find(|sample| {
            sample.name == name
                && sample.value > 0.5
                && labels.iter().all(|(label, value)| sample.label(label) == Some(value))
        });
        holds.and_then(|sample| sample.label(of))
    }
}

impl Sample {
    /// `name{label="value",...} number`. Values of Causeway's labels hold no quotes.
    fn parse(line: &str) -> Option<Self> {
        if line.starts_with('#') {
            return None;
        }
        let (series, value) = line.rsplit_once(' ')?;
        let value = value.parse().ok()?;
        let (name, labels) = series.split_once('{').unwrap_or((series, ""));
        let labels = labels
            .trim_end_matches('}')
            .split("\",")
            .filter_map(|pair| pair.split_once("=\""))
            .map(|(label, value)| (label.to_owned(), value.trim_end_matches('"').to_owned()))
            .collect();
        Some(Self { name: name.to_owned(), labels, value })
    }

    fn label(&self, name: &str) -> Option<&str> {
        self.labels.iter().find(|(label, _)| label == name).map(|(_, value)| value.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# HELP causeway_node_reads Reads.\n# TYPE causeway_node_reads counter\n\
        causeway_node_reads_total{node=\"127.0.0.1:1\",user=\"a\"} 3\n\
        causeway_node_reads_total{node=\"127.0.0.1:1\",user=\"b\"} 4\n\
        causeway_node_reads_total{node=\"127.0.0.1:2\",user=\"a\"} 1.5\n\
        causeway_node_state{node=\"127.0.0.1:1\",state=\"up\"} 0\n\
        causeway_node_state{node=\"127.0.0.1:1\",state=\"ejected\"} 1\n\
        causeway_clients 12\n# EOF\n";

    #[test]
    fn sums_over_the_labels_that_are_not_named() {
        let scrape = Scrape::parse(TEXT);
        let reads = |labels: &[_]| scrape.sum("causeway_node_reads_total", labels);
        assert_eq!(reads(&[]), Some(8.5));
        assert_eq!(reads(&[("node", "127.0.0.1:1")]), Some(7.0));
        assert_eq!(reads(&[("node", "127.0.0.1:1"), ("user", "b")]), Some(4.0));
        assert_eq!(reads(&[("node", "127.0.0.1:3")]), None);
        assert_eq!(scrape.sum("causeway_clients", &[]), Some(12.0));
        let states: Vec<_> = scrape.by("causeway_node_state", "state").collect();
        assert_eq!(states, [("up", 0.0), ("ejected", 1.0)]);
    }

    #[test]
    fn finds_the_value_that_holds() {
        let scrape = Scrape::parse(TEXT);
        let node = [("node", "127.0.0.1:1")];
        assert_eq!(scrape.which("causeway_node_state", &node, "state"), Some("ejected"));
        assert_eq!(scrape.which("causeway_node_state", &[("node", "x")], "state"), None);
    }
}
