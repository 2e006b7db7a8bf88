//! Circles in a directed graph, by Tarjan's strongly connected components: O(vertices + edges), without
//! recursion. Pure.

use std::collections::{HashMap, VecDeque};

/// One shortest circle from each strongly connected component that has one.
pub fn circles<I>(count: usize, edges: impl Fn(usize) -> I) -> Vec<Vec<usize>>
where
    I: Iterator<Item = usize>,
{
    let components = components(count, &edges);
    let mut belongs = vec![usize::MAX; count];
    for (number, component) in components.iter().enumerate() {
        for &vertex in component {
            belongs[vertex] = number;
        }
    }
    let circular = components.iter().enumerate().filter(|(_, all)| all.len() > 1);
    circular
        .map(|(number, all)| {
            let from = *all.iter().min().expect("a component has vertices");
            circle_from(from, |vertex| edges(vertex).filter(|&to| belongs[to] == number))
        })
        .collect()
}

/// A shortest way from a vertex back to itself; there must be one.
fn circle_from<I: Iterator<Item = usize>>(start: usize, edges: impl Fn(usize) -> I) -> Vec<usize> {
    let mut came_from = HashMap::new();
    let mut queue = VecDeque::from([start]);
    while let Some(vertex) = queue.pop_front() {
        for next in edges(vertex) {
            if next == start {
                let mut circle = vec![vertex];
                while circle[circle.len() - 1] != start {
                    circle.push(came_from[&circle[circle.len() - 1]]);
                }
                circle.reverse();
                return circle;
            }
            if let std::collections::hash_map::Entry::Vacant(place) = came_from.entry(next) {
                place.insert(vertex);
                queue.push_back(next);
            }
        }
    }
    unreachable!("a vertex of a strongly connected component is on a circle")
}

/// What Tarjan's algorithm knows of a vertex.
#[derive(Clone, Copy)]
struct Mark {
    index: usize,
    low: usize,
    on_stack: bool,
}

fn components<I>(count: usize, edges: &impl Fn(usize) -> I) -> Vec<Vec<usize>>
where
    I: Iterator<Item = usize>,
{
    let mut marks: Vec<Option<Mark>> = vec![None; count];
    let (mut stack, mut found, mut next_index) = (Vec::new(), Vec::new(), 0);
    for root in 0..count {
        if marks[root].is_some() {
            continue;
        }
        let mut path = vec![(root, None)];
        while let Some((vertex, ways)) = path.last_mut() {
            let vertex = *vertex;
            let ways = ways.get_or_insert_with(|| {
                marks[vertex] = Some(Mark { index: next_index, low: next_index, on_stack: true });
                next_index += 1;
                stack.push(vertex);
                edges(vertex)
            });
            if let Some(to) = ways.next() {
                match marks[to] {
                    None => path.push((to, None)),
                    Some(mark) if mark.on_stack => lower(&mut marks, vertex, mark.index),
                    Some(_) => {}
                }
                continue;
            }
            path.pop();
            let mark = marks[vertex].expect("a vertex on the path is marked");
            if let Some(&(parent, _)) = path.last() {
                lower(&mut marks, parent, mark.low);
            }
            if mark.low == mark.index {
                let from = stack.iter().rposition(|&other| other == vertex).expect("it is there");
                let component = stack.split_off(from);
                for &member in &component {
                    if let Some(mark) = &mut marks[member] {
                        mark.on_stack = false;
                    }
                }
                found.push(component);
            }
        }
    }
    found
}

fn lower(marks: &mut [Option<Mark>], vertex: usize, to: usize) {
    if let Some(mark) = &mut marks[vertex] {
        mark.low = mark.low.min(to);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(edges: &[&[usize]]) -> Vec<Vec<usize>> {
        circles(edges.len(), |from| edges[from].iter().copied())
    }

    #[test]
    fn finds_circles_and_nothing_else() {
        assert_eq!(of(&[&[1, 2], &[2], &[]]), Vec::<Vec<usize>>::new());
        assert_eq!(of(&[&[1], &[2], &[0]]), [[0, 1, 2]]);
        // The shortest of two, and a second component.
        assert_eq!(of(&[&[1], &[2, 0], &[0], &[4], &[3], &[0]]), [[0, 1], [3, 4]]);
    }

    #[test]
    fn a_long_way_needs_no_deep_stack() {
        let count = 200_000;
        let found = circles(count, |from| std::iter::once((from + 1) % count));
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].len(), count);
    }
}
