package edu.stanford.nlp.semgraph;

public class SemanticGraphCoreAnnotations {
    public static class CollapsedCCProcessedDependenciesAnnotation {}
}
