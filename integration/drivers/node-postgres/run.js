// node-postgres with its pool through Causeway; connection settings come from PG* variables.

const assert = require('node:assert')
const { Client, Pool } = require('pg')

async function main() {
  const pool = new Pool({ max: 20 })

  await pool.query('CREATE TABLE nodes (id int PRIMARY KEY, body jsonb)')
  await Promise.all(
    Array.from({ length: 50 }, (_, id) => pool.query('INSERT INTO nodes VALUES ($1, $2)', [id, { id }])),
  )
  // A lock is read on the primary: consistency is "eventual" here.
  const { rows } = await pool.query('SELECT body FROM nodes ORDER BY id FOR UPDATE')
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
  const kept = await client.query('SELECT count(*)::int AS n FROM (SELECT 1 FROM nodes WHERE body IS NOT NULL FOR UPDATE) x')
  assert.strictEqual(kept.rows[0].n, 50)
  client.release()

  const several = await pool.query('SELECT 1 AS a; SELECT 2 AS b')
  assert.deepStrictEqual(several.map((result) => result.rows[0]), [{ a: 1 }, { b: 2 }])

  const wrong = new Client({ password: 'wrong' })
  await assert.rejects(wrong.connect(), { code: '28P01' })

  await pool.end()
  console.log('all passed')
}

main().catch((error) => {
  console.error(error)
  process.exit(1)
})
