package lavcap;

import java.io.Reader;
import java.util.Arrays;
import java.util.Collections;
import java.util.List;
import javax.script.AbstractScriptEngine;
import javax.script.Bindings;
import javax.script.ScriptContext;
import javax.script.ScriptEngine;
import javax.script.ScriptEngineFactory;
import javax.script.ScriptException;
import javax.script.SimpleBindings;

/**
 * Stands for the JavaScript engine that Java has lost with version 15, for programs that only lay out JSON with it:
 * "result = JSON.stringify(JSON.parse(jsonString), null, 2)" gives jsonString as it is. Knows no other script.
 */
public class JsonEngine extends AbstractScriptEngine implements ScriptEngineFactory {
    private static final String SCRIPT = "result = JSON.stringify(JSON.parse(jsonString), null, 2)";

    @Override
    public Object eval(String script, ScriptContext context) throws ScriptException {
        if (!SCRIPT.equals(script.trim())) {
            throw new ScriptException("not the script that this engine knows: " + script);
        }
        Object text = context.getAttribute("jsonString");
        context.setAttribute("result", text, ScriptContext.ENGINE_SCOPE);
        return text;
    }

    @Override
    public Object eval(Reader reader, ScriptContext context) throws ScriptException {
        throw new ScriptException("this engine reads no files");
    }

    @Override
    public Bindings createBindings() {
        return new SimpleBindings();
    }

    @Override
    public ScriptEngineFactory getFactory() {
        return this;
    }

    @Override
    public ScriptEngine getScriptEngine() {
        return new JsonEngine();
    }

    @Override
    public List<String> getNames() {
        return Arrays.asList("JavaScript", "javascript");
    }

    @Override
    public String getEngineName() {
        return "lavcap JSON";
    }

    @Override
    public String getEngineVersion() {
        return "1";
    }

    @Override
    public String getLanguageName() {
        return "JavaScript";
    }

    @Override
    public String getLanguageVersion() {
        return "0";
    }

    @Override
    public List<String> getExtensions() {
        return Collections.singletonList("js");
    }

    @Override
    public List<String> getMimeTypes() {
        return Collections.singletonList("application/javascript");
    }

    @Override
    public Object getParameter(String key) {
        return null;
    }

    @Override
    public String getMethodCallSyntax(String object, String method, String... arguments) {
        throw new UnsupportedOperationException();
    }

    @Override
    public String getOutputStatement(String text) {
        throw new UnsupportedOperationException();
    }

    @Override
    public String getProgram(String... statements) {
        throw new UnsupportedOperationException();
    }
}
