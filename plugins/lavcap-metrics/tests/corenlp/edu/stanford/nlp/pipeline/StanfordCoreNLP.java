package edu.stanford.nlp.pipeline;

import java.util.Properties;

public class StanfordCoreNLP {
    public StanfordCoreNLP(Properties properties) {
        System.err.println("annotators " + properties.getProperty("annotators"));
    }

    public void annotate(Iterable<Annotation> annotations) {}
}
