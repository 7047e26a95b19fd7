// What `auth_request` of nginx.conf asks: 204 with who it is, 401, 403, or 503 when nobody can know. Every other answer
// of Vestibule, and every error here, is an outage: a token is refused only when Vestibule itself says it is dead.

const REALM = 'Bearer realm="api"';

function client() {
    const halves = [process.env.VESTIBULE_CLIENT_ID, process.env.VESTIBULE_CLIENT_SECRET];
    return 'Basic ' + Buffer.from(halves.map(encodeURIComponent).join(':')).toString('base64');
}

async function check(r) {
    try {
        await answer(r);
    } catch (error) {
        r.error('Vestibule cannot be asked: ' + error.message);
        r.return(503);
    }
}

async function answer(r) {
    const presented = /^Bearer +([A-Za-z0-9._~+\/-]+=*)$/i.exec(r.headersIn.Authorization || '');
    if (!presented) {
        return refuse(r, 401, REALM);
    }
    const token = await introspected(r, presented[1]);
    if (token.active === false || ![].concat(token.aud).includes(r.variables.vestibule_audience)) {
        return refuse(r, 401, REALM + ', error="invalid_token"');
    }
    const roles = token.roles || [];
    const needed = r.variables.vestibule_role;
    if (needed && !roles.includes(needed)) {
        return refuse(r, 403, REALM + ', error="insufficient_scope"');
    }
    r.headersOut['X-Auth-Subject'] = token.sub;
    r.headersOut['X-Auth-Scope'] = token.scope || '';
    r.headersOut['X-Auth-Roles'] = roles.join(',');
    r.return(204);
}

async function introspected(r, token) {
    const asked = { method: 'POST', body: 'token=' + encodeURIComponent(token) };
    const reply = await r.subrequest('/_vestibule/introspect', asked);
    if (reply.status !== 200) {
        throw new Error('it answered ' + reply.status);
    }
    const told = JSON.parse(reply.responseText);
    if (told.active !== false && !(told.active === true && told.sub)) {
        throw new Error('it did not say whether the token is active');
    }
    return told;
}

function refuse(r, status, challenge) {
    r.headersOut['WWW-Authenticate'] = challenge;
    r.return(status);
}

export default { check, client };
