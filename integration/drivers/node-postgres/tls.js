// Logs in once per case in CASES (see integration/tls/drivers.rs) and says what came of each.
'use strict';

const fs = require('fs');
const { Client } = require('pg');

function ssl(entry) {
    if (entry.mode === 'disable') return false;
    if (entry.mode === 'require') return { rejectUnauthorized: false };
    const ca = fs.readFileSync(entry.root).toString();
    return entry.mode === 'verify-ca' ? { ca, checkServerIdentity: () => undefined } : { ca };
}

async function attempt(entry) {
    const client = new Client({
        host: entry.host,
        port: entry.port,
        user: 'app',
        password: 'app',
        database: 'app',
        ssl: ssl(entry),
        enableChannelBinding: entry.binding === 'require',
    });
    client.on('error', () => {});
    try {
        await client.connect();
        const found = await client.query('SELECT $1::int AS n', [7]);
        if (found.rows[0].n !== 7) throw new Error('wrong answer');
        return client.connection.stream.encrypted ? 'in tls' : 'in plain';
    } catch (error) {
        if (error.message === 'wrong answer') throw error;
        return 'refused';
    } finally {
        await client.end().catch(() => {});
    }
}

async function main() {
    for (const entry of JSON.parse(process.env.CASES)) {
        console.log(entry.name, await attempt(entry));
    }
}

main();
