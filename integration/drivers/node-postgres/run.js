// node-postgres with its pool through Causeway; connection settings come from PG* variables.

const assert = require('node:assert')
const { Client, Pool } = require('pg')

async function main() {
  const pool = new Pool({ max: 20 })

  await pool.query('CREATE TABLE nodes (id int PRIMARY KEY, body jsonb)')
  await Promise.all(
    Array.from({ length: 50 }, (_, id) => pool.query('INSERT INTO nodes VALUES ($1, $2)', [id, { id }])),
  )
  const { rows } = await pool.query('SELECT body FROM nodes ORDER BY id')
  assert.deepStrictEqual(rows.map((row) => row.body.id), Array.from({ length: 50 }, (_, id) => id))

  // Named prepared statements, the same name on many connections.
  const answers = await Promise.all(
    Array.from({ length: 300 }, (_, n) =>
      pool.query({ name: 'twice', text: 'SELECT $1::int * 2 AS n', values: [n] }),
    ),
  )
  answers.forEach((answer, n) => assert.strictEqual(answer.rows[0].n, n * 2))

  const client = await pool.connect()
  await client.query('BEGIN')
  await client.query('UPDATE nodes SET body = NULL')
  await assert.rejects(client.query('SELECT * FROM nowhere'), { code: '42P01' })
  await assert.rejects(client.query('SELECT 1'), { code: '25P02' })
  await client.query('ROLLBACK')
  const kept = await client.query('SELECT count(*)::int AS n FROM nodes WHERE body IS NOT NULL')
  assert.strictEqual(kept.rows[0].n, 50)
  client.release()

  const several = await pool.query('SELECT 1 AS a; SELECT 2 AS b')
  assert.deepStrictEqual(several.map((result) => result.rows[0]), [{ a: 1 }, { b: 2 }])

  // The server's cursor, a part at a time.
  const reader = await pool.connect()
  await reader.query('BEGIN')
  await reader.query('DECLARE part CURSOR FOR SELECT n FROM generate_series(1, 1000) n')
  let sum = 0
  for (;;) {
    const part = await reader.query('FETCH 70 FROM part')
    if (part.rows.length === 0) break
    sum += part.rows.reduce((total, row) => total + row.n, 0)
  }
  assert.strictEqual(sum, 500500)
  await reader.query('COMMIT')
  reader.release()

  // Notifications reach a client that is silent.
  const listener = new Client()
  await listener.connect()
  await listener.query('LISTEN weather')
  for (let n = 0; n < 5; n++) {
    const heard = new Promise((resolve) => listener.once('notification', resolve))
    await pool.query('SELECT pg_notify($1, $2)', ['weather', `rain ${n}`])
    assert.strictEqual((await heard).payload, `rain ${n}`)
  }
  await listener.end()

  // A statement's time-out, set in the start-up packet.
  const slow = new Client({ statement_timeout: 300 })
  await slow.connect()
  await assert.rejects(slow.query('SELECT pg_sleep(60)'), { code: '57014' })
  assert.strictEqual((await slow.query('SHOW statement_timeout')).rows[0].statement_timeout, '300ms')
  await slow.end()

  // Many queries of one client at once: node-postgres queues them.
  const one = await pool.connect()
  const queued = await Promise.all(Array.from({ length: 200 }, (_, n) => one.query('SELECT $1::int AS n', [n])))
  queued.forEach((answer, n) => assert.strictEqual(answer.rows[0].n, n))
  one.release()

  const large = 'z'.repeat(8 << 20)
  assert.strictEqual((await pool.query('SELECT $1::text AS t', [large])).rows[0].t.length, large.length)
  const many = await pool.query("SELECT n, repeat('x', 100) AS t FROM generate_series(1, 50000) n")
  assert.strictEqual(many.rows.length, 50000)

  const wrong = new Client({ password: 'wrong' })
  await assert.rejects(wrong.connect(), { code: '28P01' })

  await pool.end()
  console.log('all passed')
}

main().catch((error) => {
  console.error(error)
  process.exit(1)
})
